// Tiny models with random weights for tests that compare one way of running a model with another.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "base/rng.h"
#include "model/model.h"

namespace reprise::test {

struct TinyShape {
  int d = 36, heads = 4, kv_heads = 2, head_dim = 10, ffn = 44, vocab = 46, layers = 2;
};
// Widths that are multiples of 32, so that every matrix can be quantized.
inline constexpr TinyShape kQuantizable = {
    .d = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 96, .vocab = 64, .layers = 2};

inline Json tiny_text_config(const std::string& architecture, const TinyShape& shape = {}) {
  return {{"architectures", {architecture}},
          {"hidden_size", shape.d},
          {"num_attention_heads", shape.heads},
          {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"intermediate_size", shape.ffn},
          {"vocab_size", shape.vocab},
          {"num_hidden_layers", shape.layers},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 256},
          {"rope_theta", 500.0},
          {"tie_word_embeddings", false}};
}

// GPT-NeoX has keys of its own and no grouped heads.
inline Json tiny_neox_config(TinyShape shape = {}) {
  shape.kv_heads = shape.heads;
  shape.d = shape.heads * shape.head_dim;
  Json json = tiny_text_config("GPTNeoXForCausalLM", shape);
  for (const char* key : {"num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta"})
    json.erase(key);
  json["layer_norm_eps"] = 1e-5;
  json["hidden_act"] = "gelu";
  json["rotary_emb_base"] = 500;
  json["rotary_pct"] = 0.6;
  return json;
}

// model_type "trol" or "phantom" around a language model, with an InternViT tower.
inline Json tiny_vision_language_config(const std::string& model_type, Json text) {
  return {{"model_type", model_type},
          {"llm_config", std::move(text)},
          {"downsample_ratio", 0.5},
          {"image_token_index", 3},
          {"vision_config",
           {{"model_type", "intern_vit_300m"},
            {"hidden_size", 16},
            {"num_hidden_layers", 1},
            {"num_attention_heads", 2},
            {"intermediate_size", 20},
            {"patch_size", 4},
            {"image_size", 8},
            {"layer_norm_eps", 1e-6},
            {"hidden_act", "gelu"},
            {"norm_type", "layer_norm"},
            {"qkv_bias", true},
            {"qk_normalization", false}}}};
}

// Values that make every part matter: norms near 1, matrices that keep a state's size.
inline std::vector<float> tiny_values(const TensorSlot& slot) {
  uint64_t stream = 0xcbf29ce484222325u;
  for (unsigned char c : slot.name) stream = (stream ^ c) * 0x100000001b3u;
  const Philox random(7, stream);
  std::vector<float> values(static_cast<size_t>(num_elements(slot.shape)));
  const bool norm = slot.role == Role::Norm && slot.name.ends_with(".weight");
  const bool vector = slot.use == WeightUse::Vector;
  const double fan_in = static_cast<double>(num_elements(slot.shape)) /
                        static_cast<double>(slot.shape.empty() ? 1 : slot.shape[0]);
  const double size = slot.use == WeightUse::Table ? 1.0 : vector ? 0.2 : 1.4 / std::sqrt(fan_in);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((norm ? 1.0 - slot.offset : 0.0) + size * random.normal(i));
  return values;
}

inline std::unique_ptr<Model> tiny_model(const Json& config, Backend& backend) {
  return Model::create(config_from_json(config, "tiny model"), backend, tiny_values);
}

}  // namespace reprise::test
