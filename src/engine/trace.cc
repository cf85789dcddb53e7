#include "engine/trace.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/images.h"
#include "engine/sampler.h"
#include "engine/trace_prompt.h"

namespace reprise {

namespace {

// One named result, grown chunk by chunk along its first dimension.
struct Collected {
  Shape shape;
  std::vector<float> values;
};

class Collector : public Observer {
 public:
  Collector(Engine& engine, std::string prefix) : engine_(engine), prefix_(std::move(prefix)) {}

  void observe(const std::string& observed, const Tensor& value) override {
    // A name shown more than once in a call (attention in both passes of a layer): ".2", ...
    const int times = ++seen_[observed];
    const std::string name = times == 1 ? observed : fmt::format("{}.{}", observed, times);
    Collected& result = results_[prefix_ + name];
    const std::vector<float> values = engine_.backend().to_host(value);
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
  Engine& engine_;
  std::string prefix_;
  std::map<std::string, Collected> results_;
  std::vector<std::string> order_;
  std::map<std::string, int> seen_;  // in this call
};

// [n, heads, width] -> [heads, n, keep]: the first `keep` components of each head.
TensorView heads_first(const std::string& name, Backend& be, const Tensor& x, int64_t keep) {
  const int64_t n = x.dim(0), heads = x.dim(1), width = x.dim(2);
  const std::vector<float> values = be.to_host(x);
  std::vector<float> out(static_cast<size_t>(heads * n * keep));
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t t = 0; t < n; ++t) {
      std::copy_n(values.begin() + (t * heads + h) * width, keep, out.begin() + (h * n + t) * keep);
    }
  }
  return make_view(name, {heads, n, keep}, std::span<const float>(out));
}

// The KV rows that outlive the prompt, named by the depth of the visit that writes them: the number
// of such rows before it.
void append_kv(Model& model, const Plan& plan, const Sequence& sequence,
               std::vector<TensorView>& list) {
  const int64_t head_dim = model.config().text.head_dim;
  int depth = 0;
  for (const Step& step : plan.steps) {
    const auto* visit = std::get_if<Visit>(&step.op);
    if (visit == nullptr) continue;
    const auto row = static_cast<size_t>(visit->write);
    if (plan.kv_rows[row].lifetime != Lifetime::Request) continue;
    const KvRow& entries = sequence.kv.at(visit->write);
    const auto [k, v] = model.backend().read_kv(entries, 0, entries.filled());
    const std::string name = fmt::format("layer.{}", depth++);
    list.push_back(heads_first(name + ".k", model.backend(), k, head_dim));
    list.push_back(heads_first(name + ".v", model.backend(), v, head_dim));
  }
}

// [n] or [1, n]: a case of one row.
Shape one_row(const TraceInputs& inputs, const TensorView& tensor) {
  Shape shape = tensor.shape;
  if (shape.size() == 2 && shape[0] == 1) shape.erase(shape.begin());
  if (shape.size() != 1) {
    fail("{}: tensor '{}': expected shape [n] or [1, n], found {}", inputs.where, tensor.name,
         shape_string(tensor.shape));
  }
  return shape;
}

std::optional<TensorView> find_pixels(const WeightFile& file, const char* name, DType type) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->type != type) {
    fail("{}: tensor '{}': expected type {}, found {}", file.where(), name, dtype_name(type),
         dtype_name(tensor->type));
  }
  return *tensor;
}

}  // namespace

TraceInputs read_trace_inputs(const std::filesystem::path& path) {
  const WeightFile file = open_safetensors(path).weights;
  TraceInputs inputs;
  inputs.where = path.string();
  const TensorView* ids = file.find("input_ids");
  if (ids == nullptr) ids = file.find("prompt");
  if (ids == nullptr) fail("{}: no tensor 'input_ids' (int64 [n])", inputs.where);
  if (ids->type != DType::I64) {
    fail("{}: tensor '{}': expected type I64, found {}", inputs.where, ids->name,
         dtype_name(ids->type));
  }
  const Shape shape = one_row(inputs, *ids);
  if (shape[0] == 0) fail("{}: tensor '{}' is empty", inputs.where, ids->name);
  for (const int64_t id : to_ints(*ids)) {
    if (id < 0 || id > INT32_MAX) {
      fail("{}: tensor '{}': {} is no token id", inputs.where, ids->name, id);
    }
    inputs.ids.push_back(static_cast<int32_t>(id));
  }
  if (const TensorView* mask = file.find("attention_mask")) {
    const std::vector<int64_t> values = to_ints(*mask);
    if (one_row(inputs, *mask) != shape ||
        !std::all_of(values.begin(), values.end(), [](int64_t m) { return m == 1; })) {
      fail("{}: tensor 'attention_mask': expected one 1 per token; padding is not supported",
           inputs.where);
    }
  }
  inputs.pixels = find_pixels(file, "pixel_values", DType::F32);
  inputs.bytes = find_pixels(file, "pixel_u8", DType::U8);
  if (inputs.pixels && inputs.bytes) {
    fail("{}: both 'pixel_values' and 'pixel_u8'; expected one of them", inputs.where);
  }
  return inputs;
}

namespace {

// The file's pixels as the vision tower takes them.
PixelTiles trace_pixels(const ModelConfig& config, const TraceInputs& inputs) {
  const TensorView& tensor = inputs.pixels ? *inputs.pixels : *inputs.bytes;
  if (!config.vision) {
    fail("{}: tensor '{}': the model has no vision tower", inputs.where, tensor.name);
  }
  const int64_t size = config.vision->image_size;
  if (tensor.shape.size() != 4 || tensor.shape[0] < 1 || tensor.shape[1] != 3 ||
      tensor.shape[2] != size || tensor.shape[3] != size) {
    fail("{}: tensor '{}': expected shape [tiles, 3, {}, {}], found {}", inputs.where, tensor.name,
         size, size, shape_string(tensor.shape));
  }
  PixelTiles pixels;
  pixels.tiles = tensor.shape[0];
  if (inputs.pixels) {
    pixels.values = to_floats(tensor);
  } else {
    Tiles tiles;
    tiles.count = static_cast<int>(tensor.shape[0]);
    tiles.size = static_cast<int>(size);
    const auto* first = reinterpret_cast<const uint8_t*>(tensor.data.data());
    tiles.bytes.assign(first, first + tensor.data.size());
    pixels.values = normalise(tiles, preprocess_config(config.image));
  }
  return pixels;
}

}  // namespace

TokenPrompt trace_prompt(Engine& engine, const TraceInputs& inputs, Observer* observer) {
  TokenPrompt prompt;
  prompt.ids = inputs.ids;
  if (inputs.pixels || inputs.bytes) {
    const PixelTiles pixels = trace_pixels(engine.config(), inputs);
    prompt.image_rows = encode_pixels(engine.model(), pixels, observer);
  }
  mark_placeholders(engine.config(), prompt, inputs.where);
  return prompt;
}

std::vector<TensorView> trace(Engine& engine, const TraceInputs& inputs,
                              const TraceOptions& options) {
  Model& model = engine.model();
  Backend& be = engine.backend();
  std::vector<TensorView> results;
  Collector collector(engine, "");

  const TokenPrompt prompt = trace_prompt(engine, inputs, &collector);
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
      },
      &collector);
  collector.append_to(results);
  append_kv(model, prompt.size() > 1 ? plans->prefill : plans->decode, session.sequence(), results);
  if (options.steps == 0) return results;

  Collector first(engine, "decode.1.");
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

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  REPRISE_CHECK(p.size() == q.size() && !p.empty());
  const auto log_sum = [](std::span<const float> x) {
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const float value : x) sum += std::exp(value - top);
    return top + std::log(sum);
  };
  const double p_log = log_sum(p), q_log = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_log;
    kl += std::exp(log_p) * (log_p - (q[i] - q_log));
  }
  return kl;
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
