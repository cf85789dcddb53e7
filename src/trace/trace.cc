#include "trace/trace.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/images.h"
#include "engine/logits.h"
#include "engine/sampler.h"
#include "model/scheme_type.h"

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
    if (const auto* end = std::get_if<LoopEnd>(&seen.step().op)) {
      const Model& model = loaded_.model();
      const Tensor normed = model.final_norm(seen.before);
      observe(label + ".hidden", seen.before);
      observe(label + ".logits", model.logits(normed));
      observe(fmt::format("loop.{}.norm", end->loop), normed);
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

// The exit gate at every loop end, token by token; passes what it sees on to another observer.
class GateCollector : public Observer {
 public:
  GateCollector(const Model& model, int loops) : model_(model), loops_(static_cast<size_t>(loops)) {
    if (model.scheme().has_exit_gate()) by_loop_.resize(loops_);
  }
  void on_step(const StepSeen& seen) override {
    const auto* end = std::get_if<LoopEnd>(&seen.step().op);
    if (end && !by_loop_.empty()) {
      std::vector<float>& all = by_loop_.at(static_cast<size_t>(end->loop));
      for (const float logit : model_.backend().to_host(model_.exit_gate(seen.before)))
        all.push_back(gate_probability(logit));
    }
    if (next) next->on_step(seen);
  }
  void on_value(const ValueSeen& seen) override {
    if (next) next->on_value(seen);
  }
  void on_input(const ValueSeen& seen) override {
    if (next) next->on_input(seen);
  }
  void observe(const std::string& name, const Tensor& value) override {
    if (next) next->observe(name, value);
  }

  // Of all tokens so far, [tokens, loops] each.
  struct Odds {
    std::vector<float> lambda, p, cdf;
  };
  Odds odds() const {
    Odds odds;
    for (size_t token = 0; !by_loop_.empty() && token < by_loop_[0].size(); ++token) {
      ExitOdds of_token;
      for (size_t loop = 0; loop < loops_; ++loop) {
        odds.lambda.push_back(by_loop_[loop].at(token));
        odds.p.push_back(of_token.next(odds.lambda.back(), loop + 1 == loops_));
        odds.cdf.push_back(of_token.cdf());
      }
    }
    return odds;
  }
  bool gated() const { return !by_loop_.empty(); }
  Shape shape(const std::vector<float>& values) const {
    const auto loops = static_cast<int64_t>(loops_);
    return {std::ssize(values) / loops, loops};
  }

  Observer* next = nullptr;

 private:
  const Model& model_;
  size_t loops_;
  std::vector<std::vector<float>> by_loop_;  // lambda by token; no loops without a gate
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

// [heads, entries, width] -> [heads, n, width]: the last n of each head.
std::vector<float> last_entries(const KvEntries& entries, const std::vector<float>& values,
                                int64_t n) {
  const int64_t all = entries.shape[1], width = entries.shape[2];
  std::vector<float> last;
  for (int64_t head = 0; head < entries.shape[0]; ++head) {
    const auto end = values.begin() + (head + 1) * all * width;
    last.insert(last.end(), end - n * width, end);
  }
  return last;
}

}  // namespace

std::vector<KvEntries> kv_by_depth(Model& model, const Plan& plan, const Sequence& sequence) {
  Backend& be = model.backend();
  const int64_t head_dim = model.config().text.head_dim;
  std::vector<KvEntries> by_depth;
  for (const Step& step : plan.steps) {
    const auto* visit = std::get_if<Visit>(&step.op);
    if (visit == nullptr || visit->write < 0) continue;
    const auto row = static_cast<size_t>(visit->write);
    if (plan.kv_rows[row].lifetime != Lifetime::Request) continue;
    const auto found = sequence.kv.find(visit->write);
    if (found == sequence.kv.end()) continue;
    const KvRow& entries = found->second;
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < entries.filled(); ++i) positions.push_back(entries.position(i));
    const auto [k, v] = be.read_kv(entries, 0, entries.filled());
    by_depth.push_back({visit->write,
                        visit->block,
                        std::move(positions),
                        {k.dim(1), k.dim(0), head_dim},
                        heads_first(be, k, head_dim),
                        heads_first(be, v, head_dim)});
  }
  return by_depth;
}

bool draws_states(const Model& model, const PlanOptions& options) {
  const SchemeType* type = find_scheme(model.config().scheme);
  return std::ranges::any_of(options.values(), [&](const auto& given) {
    const SchemeOption* option =
        type ? type->option(given.first, SchemeOption::When::Request) : nullptr;
    return option && option->states;
  });
}

std::vector<TensorView> trace(LoadedModel& loaded, const TokenInputs& inputs,
                              const TraceOptions& options) {
  Model& model = loaded.model();
  Backend& be = loaded.backend();
  std::vector<TensorView> results;
  const auto floats = [&](const std::string& name, Shape shape, const std::vector<float>& values) {
    results.push_back(make_view(name, std::move(shape), std::span<const float>(values)));
  };
  const auto ints = [&](const char* name, const std::vector<int64_t>& values) {
    results.push_back(make_view(name, {std::ssize(values)}, std::span<const int64_t>(values)));
  };

  const auto plans = make_plans(model, options.plan);
  const bool selects = options.exit.mode == ExitMode::Select;
  const bool whole = options.exit.prompts;  // they leave, as the model's own code lets them
  const ExitConfig exit =
      selects || whole || model.scheme().selects() ? options.exit : ExitConfig();
  const bool all_loops = selects || !exit.active();  // of generated tokens too
  Collector collector(loaded, "");
  GateCollector gates(model, plans->decode.loops());
  gates.next = &collector;
  const TokenPrompt prompt = token_prompt(loaded, inputs, &collector);
  Session session(model, plans, options.chunk, exit);
  session.set_initial(initial_states(model, plans->decode, inputs, options.steps,
                                     draws_states(model, options.plan)));
  std::vector<float> next;  // logits of the last position
  session.prefill(
      prompt,
      [&](int64_t, const Tensor& normed) {
        const Tensor logits = model.logits(normed);
        collector.observe("final_norm", normed);
        if (const std::string own = model.scheme().final_norm_name(plans->prefill); !own.empty())
          collector.observe(own, normed);
        collector.observe("logits", logits);
        collector.next_call();
        next = be.to_host(be.slice(logits, 0, logits.dim(0) - 1, logits.dim(0)));
        check_logits(model, next, inputs.where);
      },
      &gates);
  collector.append_to(results);
  const Plan& prompt_plan = prompt.size() > 1 ? plans->prefill : plans->decode;
  if (gates.gated()) {
    const GateCollector::Odds odds = gates.odds();
    floats("exit.lambda", gates.shape(odds.lambda), odds.lambda);
    floats("exit.p", gates.shape(odds.p), odds.p);
    floats("exit.cdf", gates.shape(odds.cdf), odds.cdf);
  }
  std::vector<int64_t> steps(session.prompt_loops().begin(), session.prompt_loops().end());
  if (exit.active() && !whole) ints("exit_step", steps);
  append_kv(model, prompt_plan, session.sequence(), results);
  const auto append_slots = [&](const Plan& plan) {
    if (plan.loops() == 0) return;
    for (const KvEntries& entries : kv_by_depth(model, plan, session.sequence())) {
      const std::string name = fmt::format("kv.{}", model.scheme().kv_slot(plan, entries.row));
      const int64_t kept = model.scheme().kv_kept(entries.block);
      const int64_t n = kept > 0 ? std::min(kept, entries.shape[1]) : entries.shape[1];
      const Shape shape = {entries.shape[0], n, entries.shape[2]};
      floats(name + ".k", shape, last_entries(entries, entries.k, n));
      floats(name + ".v", shape, last_entries(entries, entries.v, n));
    }
  };
  if (options.steps == 0) {
    append_slots(prompt_plan);
    return results;
  }

  Collector first(loaded, "decode.1.");
  std::vector<int64_t> tokens;
  std::vector<float> logits, values;
  const auto add_values = [&](const LoopExit& left) {
    for (size_t loop = 0; loop < left.scores.size(); ++loop)
      values.push_back(static_cast<int>(loop) > left.loop ? -1.0f
                                                          : static_cast<float>(left.scores[loop]));
  };
  if (whole) add_values(session.prompt_exit());
  steps.erase(steps.begin(), steps.empty() ? steps.end() : steps.end() - 1);
  for (int64_t step = 0; step < options.steps; ++step) {
    if (step > 0) {
      gates.next = step == 1 ? &first : nullptr;
      Observer* const watch = gates.gated() && all_loops ? &gates : gates.next;
      const auto token = static_cast<int32_t>(tokens.back());
      if (exit.active()) {
        LoopExit left = session.decode_exit(token, watch);
        steps.push_back(left.loop);
        if (whole) add_values(left);
        next = std::move(left.logits);
      } else {
        next = session.decode(token, watch);
      }
    }
    logits.insert(logits.end(), next.begin(), next.end());
    tokens.push_back(argmax(next, fmt::format("generation step {}", step)));
  }
  first.append_to(results);
  ints("decode.tokens", tokens);
  floats("decode.logits", {options.steps, std::ssize(next)}, logits);
  if (exit.active()) ints("decode.exit_step", steps);
  if (whole) {
    floats("exit.values", {options.steps, plans->decode.loops()}, values);
    for (int64_t& step : steps) ++step;
    ints("decode.steps", steps);
  }
  if (gates.gated() && all_loops) {
    const std::vector<float> all = gates.odds().cdf;
    const int64_t loops = plans->decode.loops(), n = prompt.size();
    const auto from = [&](int64_t token) {
      return std::vector<float>(all.begin() + token * loops, all.end());
    };
    floats("decode.cdf", {options.steps, loops}, from(n - 1));
    if (options.steps > 1) floats("decode.exit.cdf", {options.steps - 1, loops}, from(n));
  }
  session.finish_exits();
  append_slots(plans->decode);
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
