#include "trace/trace.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/images.h"
#include "engine/logits.h"
#include "engine/sampler.h"

namespace reprise {

namespace {

// One named result, grown chunk by chunk along its first dimension.
struct Collected {
  Shape shape;
  std::vector<float> values;
};

class Collector : public Observer {
 public:
  Collector(LoadedModel& loaded, std::string prefix)
      : loaded_(loaded), prefix_(std::move(prefix)) {}

  // The state after a step under the step's label; at a loop end the state and what it would answer.
  void on_step(const StepSeen& seen) override {
    const std::string& label = seen.step().label;
    if (std::holds_alternative<LoopEnd>(seen.step().op)) {
      const Model& model = loaded_.model();
      observe(label + ".hidden", seen.before);
      observe(label + ".logits", model.logits(model.final_norm(seen.before)));
    } else if (!label.empty()) {
      observe(label, seen.after);
    }
  }

  // "layer.3.attn": beside the step's label "layer.3.out".
  void on_value(const ValueSeen& seen) override {
    const std::string& label = seen.step().label;
    observe(fmt::format("{}.{}", label.substr(0, label.rfind('.')), seen.name), seen.value);
  }

  void observe(const std::string& observed, const Tensor& value) override {
    // A name shown more than once in a call (attention in both passes of a layer): ".2", ...
    const int times = ++seen_[observed];
    const std::string name = times == 1 ? observed : fmt::format("{}.{}", observed, times);
    Collected& result = results_[prefix_ + name];
    const std::vector<float> values = loaded_.backend().to_host(value);
    if (result.shape.empty()) {
      order_.push_back(prefix_ + name);
      result.shape = value.shape();
    } else {
      result.shape[0] += value.dim(0);
    }
    result.values.insert(result.values.end(), values.begin(), values.end());
  }

  // The next values belong to another forward call: to more rows of the same names.
  void next_call() { seen_.clear(); }

  void append_to(std::vector<TensorView>& list) const {
    for (const std::string& name : order_) {
      const Collected& result = results_.at(name);
      list.push_back(make_view(name, result.shape, std::span<const float>(result.values)));
    }
  }

 private:
  LoadedModel& loaded_;
  std::string prefix_;
  std::map<std::string, Collected> results_;
  std::vector<std::string> order_;
  std::map<std::string, int> seen_;  // in this call
};

// [n, heads, width] -> [heads, n, keep]: the first `keep` components of each head.
std::vector<float> heads_first(Backend& be, const Tensor& x, int64_t keep) {
  const int64_t n = x.dim(0), heads = x.dim(1), width = x.dim(2);
  const std::vector<float> values = be.to_host(x);
  std::vector<float> out(static_cast<size_t>(heads * n * keep));
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t t = 0; t < n; ++t) {
      std::copy_n(values.begin() + (t * heads + h) * width, keep, out.begin() + (h * n + t) * keep);
    }
  }
  return out;
}

void append_kv(Model& model, const Plan& plan, const Sequence& sequence,
               std::vector<TensorView>& list) {
  int depth = 0;
  for (const KvEntries& entries : kv_by_depth(model, plan, sequence)) {
    const std::string name = fmt::format("layer.{}", depth++);
    list.push_back(make_view(name + ".k", entries.shape, std::span<const float>(entries.k)));
    list.push_back(make_view(name + ".v", entries.shape, std::span<const float>(entries.v)));
  }
}

}  // namespace

std::vector<KvEntries> kv_by_depth(Model& model, const Plan& plan, const Sequence& sequence) {
  Backend& be = model.backend();
  const int64_t head_dim = model.config().text.head_dim;
  std::vector<KvEntries> by_depth;
  for (const Step& step : plan.steps) {
    const auto* visit = std::get_if<Visit>(&step.op);
    if (visit == nullptr) continue;
    const auto row = static_cast<size_t>(visit->write);
    if (plan.kv_rows[row].lifetime != Lifetime::Request) continue;
    const KvRow& entries = sequence.kv.at(visit->write);
    const auto [k, v] = be.read_kv(entries, 0, entries.filled());
    by_depth.push_back({{k.dim(1), k.dim(0), head_dim},
                        heads_first(be, k, head_dim),
                        heads_first(be, v, head_dim)});
  }
  return by_depth;
}

std::vector<TensorView> trace(LoadedModel& loaded, const TokenInputs& inputs,
                              const TraceOptions& options) {
  Model& model = loaded.model();
  Backend& be = loaded.backend();
  std::vector<TensorView> results;
  Collector collector(loaded, "");

  const TokenPrompt prompt = token_prompt(loaded, inputs, &collector);
  const auto plans = make_plans(model, options.plan);
  Session session(model, plans, options.chunk);
  std::vector<float> next;  // logits of the last position
  session.prefill(
      prompt,
      [&](int64_t, const Tensor& state) {
        const Tensor normed = model.final_norm(state);
        const Tensor logits = model.logits(normed);
        collector.observe("final_norm", normed);
        collector.observe("logits", logits);
        collector.next_call();
        next = be.to_host(be.slice(logits, 0, logits.dim(0) - 1, logits.dim(0)));
        check_logits(model, next, inputs.where);
      },
      &collector);
  collector.append_to(results);
  append_kv(model, prompt.size() > 1 ? plans->prefill : plans->decode, session.sequence(), results);
  if (options.steps == 0) return results;

  Collector first(loaded, "decode.1.");
  std::vector<int64_t> tokens;
  std::vector<float> logits;
  for (int64_t step = 0; step < options.steps; ++step) {
    if (step > 0) {
      next = session.decode(static_cast<int32_t>(tokens.back()), step == 1 ? &first : nullptr);
    }
    logits.insert(logits.end(), next.begin(), next.end());
    tokens.push_back(argmax(next, fmt::format("generation step {}", step)));
  }
  first.append_to(results);
  const auto vocab = static_cast<int64_t>(next.size());
  results.push_back(make_view("decode.tokens", {options.steps}, std::span<const int64_t>(tokens)));
  results.push_back(
      make_view("decode.logits", {options.steps, vocab}, std::span<const float>(logits)));
  return results;
}

double trace_kl(const std::vector<TensorView>& exact, const std::vector<TensorView>& other) {
  const auto logits = [](const std::vector<TensorView>& list) {
    const auto it = std::find_if(list.begin(), list.end(),
                                 [](const TensorView& t) { return t.name == "logits"; });
    REPRISE_CHECK(it != list.end());
    return it;
  };
  const std::vector<float> p = to_floats(*logits(exact)), q = to_floats(*logits(other));
  REPRISE_CHECK(p.size() == q.size());
  const auto rows = static_cast<size_t>(logits(exact)->shape[0]);
  const size_t vocab = p.size() / rows;
  double sum = 0;
  for (size_t i = 0; i < rows; ++i) {
    sum += kl_divergence(std::span(p).subspan(i * vocab, vocab),
                         std::span(q).subspan(i * vocab, vocab));
  }
  return sum / static_cast<double>(rows);
}

}  // namespace reprise
