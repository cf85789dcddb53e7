// Gemma 3, its text models: Gemma 1 with norms behind attention and MLP too, norms over each head of
// q and k, and windows on five layers of six, which have a rope of their own. Keys and defaults:
// Gemma3TextConfig of transformers 5. GGUF files hold 1 + weight; what they leave out is what
// llama.cpp means by that.
#include <cmath>

#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"

namespace reprise::arch {
namespace {

constexpr int64_t kWindow = 4096, kPattern = 6;
constexpr const char* kPatternKey = "sliding_window_pattern";
constexpr const char* kScale = "query_pre_attn_scalar";

bool has_window(int64_t layer, int64_t pattern) { return (layer + 1) % pattern != 0; }

void read(const DecoderKeys& keys, TextConfig& text) {
  const JsonObject& json = keys.json;
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  constexpr const char* kActivation = "hidden_activation";
  text.activation =
      activation(json, kActivation,
                 json.has(kActivation) ? json.get_string(kActivation) : "gelu_pytorch_tanh");
  text.embed_scale = static_cast<float>(std::sqrt(static_cast<double>(text.d)));
  text.final_norm.offset = 1;
  const double scalar = json.has(kScale) ? number_in(json, kScale, 1e-6, 1e6) : 256;
  const int64_t window =
      json.has("sliding_window") ? json.get_int("sliding_window", 1, kMostTokens) : kWindow;
  const int64_t pattern =
      json.has(kPatternKey) ? json.get_int(kPatternKey, 1, kMostLayers) : kPattern;
  const auto types = read_layer_types(json, text.layers);
  for (size_t i = 0; i < text.blocks.size(); ++i) {
    BlockConfig& block = text.blocks[i];
    block.norm.offset = 1;
    block.post_norm = PostNorm::Branch;
    block.qk_norm = QkNorm::Head;
    block.scale = static_cast<float>(1 / std::sqrt(scalar));
    if (types ? (*types)[i] : has_window(static_cast<int64_t>(i), pattern)) block.window = window;
  }
}

// The largest model is the one whose scale isn't that of its heads; llama.cpp knows it by its depth.
void complete(Json& json) {
  constexpr int64_t kLargest = 62;
  const auto layers = json["num_hidden_layers"].get<int64_t>();
  const auto heads = json["num_attention_heads"].get<int64_t>();
  json[kScale] = layers == kLargest ? json["hidden_size"].get<int64_t>() / heads
                                    : json["head_dim"].get<int64_t>();
  if (!json.contains("sliding_window")) json["sliding_window"] = kWindow;
  Json types = Json::array();
  for (int64_t layer = 0; layer < layers; ++layer)
    types.push_back(has_window(layer, kPattern) ? "sliding_attention" : "full_attention");
  json["layer_types"] = types;
}

const NameTable& names() {
  static const NameTable table = [] {
    NameTable gemma = hugging_face_names();
    gemma.names["attn_post_norm"] = "post_attention_layernorm";
    gemma.names["mlp_norm"] = "pre_feedforward_layernorm";
    gemma.names["mlp_post_norm"] = "post_feedforward_layernorm";
    return gemma;
  }();
  return table;
}

}  // namespace

Architecture gemma3() {
  return {.name = "Gemma3ForCausalLM",
          .defaults = {.kv_heads = 4,
                       .head_dim = 256,
                       .activation = "gelu_pytorch_tanh",
                       .max_position = 131072,
                       .rope_theta = 1e6,
                       .tied_head = true},
          .rope = {.windowed_theta_key = "rope_local_base_freq", .windowed_theta = 10000},
          .gguf = {.name = "gemma3",
                   .norm_offset_added = true,
                   .optional_biases = true,
                   .windowed_theta = "rope.freq_base_swa",
                   .complete = complete},
          .own_keys = {kScale, "rope_local_base_freq"},
          .names = &names(),
          .read = read};
}

}  // namespace reprise::arch
