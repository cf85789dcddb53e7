#include "looped_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/json.h"
#include "base/quant/rows.h"
#include "base/rng.h"

namespace reprise::bench {
namespace {

struct Shape {
  const char* architecture;
  const char* model_type;
  int64_t d, layers, heads, kv_heads, ffn, vocab;
};

Json common_config(const Shape& s) {
  return {{"architectures", {s.architecture}},
          {"model_type", s.model_type},
          {"hidden_act", "silu"},
          {"hidden_size", s.d},
          {"intermediate_size", s.ffn},
          {"num_hidden_layers", s.layers},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"vocab_size", s.vocab},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1e6},
          {"max_position_embeddings", 32768},
          {"tie_word_embeddings", false}};
}

Json looped_config(const Shape& s, int loops) {
  Json config = common_config(s);
  if (s.model_type == std::string("internlm2")) config["bias"] = false;
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", loops}, {"lora_rank", 0}, {"exit_gate", true}}}};
  return config;
}

Json ouro_config(const Shape& s, int loops) {
  Json config = common_config(s);
  config["head_dim"] = s.d / s.heads;
  config["total_ut_steps"] = loops;
  config["early_exit_threshold"] = 1.0;
  return config;
}

struct Entry {
  const char* name;
  std::function<Json()> config;
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> list = {
      {"0.5b-x3",
       [] {
         return looped_config({"Qwen2ForCausalLM", "qwen2", 896, 24, 14, 2, 4864, 151655}, 3);
       }},
      {"1.8b-x3",
       [] {
         return looped_config({"InternLM2ForCausalLM", "internlm2", 2048, 24, 16, 8, 8192, 92544},
                              3);
       }},
      {"ouro-1.4b",
       [] {
         return ouro_config({"OuroForCausalLM", "ouro", 2048, 24, 16, 16, 5632, 49152}, 4);
       }},
      {"tiny",
       [] {
         return looped_config({"Qwen2ForCausalLM", "qwen2", 128, 4, 4, 2, 256, 1024}, 3);
       }},
  };
  return list;
}

// Normal numbers scaled so that activations stay in range, read from a pool at a place that the
// tensor's name gives.
std::vector<float> values_of(const TensorSlot& slot) {
  constexpr size_t kPool = size_t{1} << 20;
  static const std::vector<float> pool = [] {
    std::vector<float> values(kPool);
    const Philox rng(1, 0);
    for (size_t i = 0; i < values.size(); ++i) values[i] = rng.normal(i);
    return values;
  }();
  std::vector<float> values(static_cast<size_t>(num_elements(slot.shape)));
  if (slot.use == WeightUse::Vector) {
    std::fill(values.begin(), values.end(), slot.role == Role::Norm ? 1.0f : 0.0f);
    return values;
  }
  const float scale = 1 / std::sqrt(static_cast<float>(slot.shape.back()));
  size_t at = std::hash<std::string>()(slot.name) % kPool;
  for (float& value : values) {
    value = scale * pool[at];
    at = at + 1 == kPool ? 0 : at + 1;
  }
  return values;
}

// The same values as Q8_0, row by row.
HostTensor quantized(const TensorSlot& slot) {
  const std::vector<float> values = values_of(slot);
  const int64_t n = slot.shape.back(), rows = num_elements(slot.shape) / n;
  auto bytes = std::make_shared<std::vector<std::byte>>(tensor_bytes(DType::Q8_0, slot.shape));
  const size_t stride = bytes->size() / static_cast<size_t>(rows);
  for (int64_t row = 0; row < rows; ++row)
    quantize_row(DType::Q8_0, &values[static_cast<size_t>(row * n)],
                 &(*bytes)[static_cast<size_t>(row) * stride], n);
  return {DType::Q8_0, slot.shape, *bytes, bytes, {}};
}

}  // namespace

std::vector<std::string> looped_shapes() {
  std::vector<std::string> names;
  for (const Entry& entry : entries()) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Model> make_looped_model(const std::string& shape, Backend& backend) {
  const auto entry = std::find_if(entries().begin(), entries().end(),
                                  [&](const Entry& one) { return one.name == shape; });
  if (entry == entries().end())
    fail("shape '{}': expected one of {}", shape, fmt::join(looped_shapes(), ", "));
  const ModelConfig config = config_from_json(entry->config(), shape);
  auto model = Model::create(config, backend, values_of, nullptr, {.kv_type = DType::F16});
  model->visit_tensors([&](const TensorSlot& slot) {
    constexpr int64_t kBlock = 32;
    if (slot.use != WeightUse::Vector && slot.shape.back() % kBlock == 0)
      *slot.tensor = backend.bind(quantized(slot), slot.use);
  });
  return model;
}

}  // namespace reprise::bench
