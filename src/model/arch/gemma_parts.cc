#include "model/arch/gemma_parts.h"

#include <cmath>

#include "base/json.h"
#include "base/json_object.h"
#include "model/config/config_parts.h"

namespace reprise::arch {
namespace {

bool has_window(int64_t layer, int64_t pattern) { return (layer + 1) % pattern != 0; }

// null: none.
float read_cap(const JsonObject& json, const char* key, double absent) {
  constexpr double kLeast = 1e-3, kMost = 1e9;
  if (json.has(key)) return static_cast<float>(number_in(json, key, kLeast, kMost));
  return json.json().contains(key) ? 0 : static_cast<float>(absent);
}

void read_windows_by_pattern(const JsonObject& json, int64_t pattern, TextConfig& text) {
  constexpr const char* kWindow = "sliding_window";
  constexpr int64_t kAbsent = 4096;
  const int64_t window = json.has(kWindow)               ? json.get_int(kWindow, 1, kMostTokens)
                         : json.json().contains(kWindow) ? 0
                                                         : kAbsent;
  const auto types = read_layer_types(json, text.layers);
  for (size_t i = 0; i < text.blocks.size(); ++i) {
    if (!(types ? (*types)[i] : has_window(static_cast<int64_t>(i), pattern))) continue;
    text.blocks[i].window = window;
    if (window > 0) continue;
    json.problem_at(kWindow, "is null, but there are layers with a window: expected a number");
    return;
  }
}

}  // namespace

void read_gemma_blocks(const DecoderKeys& keys, const GemmaDefaults& absent, TextConfig& text) {
  const JsonObject& json = keys.json;
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  constexpr const char* kActivation = "hidden_activation";
  text.activation =
      activation(json, kActivation,
                 json.has(kActivation) ? json.get_string(kActivation) : "gelu_pytorch_tanh");
  text.embed_scale = static_cast<float>(std::sqrt(static_cast<double>(text.d)));
  text.score_softcap = read_cap(json, kScoreCap, absent.score_cap);
  text.logit_softcap = read_cap(json, kLogitCap, absent.logit_cap);
  text.final_norm.offset = 1;
  const double scalar = json.has(kGemmaScale) ? number_in(json, kGemmaScale, 1e-6, 1e6) : 256;
  for (BlockConfig& block : text.blocks) {
    block.norm.offset = 1;
    block.post_norm = PostNorm::Branch;
    block.scale = static_cast<float>(1 / std::sqrt(scalar));
  }
  read_windows_by_pattern(json, absent.pattern, text);
}

const NameTable& gemma_names() {
  static const NameTable table = [] {
    NameTable gemma = hugging_face_names();
    gemma.names["attn_post_norm"] = "post_attention_layernorm";
    gemma.names["mlp_norm"] = "pre_feedforward_layernorm";
    gemma.names["mlp_post_norm"] = "post_feedforward_layernorm";
    return gemma;
  }();
  return table;
}

void complete_gemma(Json& json, int64_t pattern, int64_t largest) {
  const auto layers = json["num_hidden_layers"].get<int64_t>();
  const auto heads = json["num_attention_heads"].get<int64_t>();
  json[kGemmaScale] = layers == largest ? json["hidden_size"].get<int64_t>() / heads
                                        : json["head_dim"].get<int64_t>();
  const bool windows = json.contains("sliding_window");
  Json types = Json::array();
  for (int64_t layer = 0; layer < layers; ++layer)
    types.push_back(windows && has_window(layer, pattern) ? "sliding_attention" : "full_attention");
  json["layer_types"] = types;
  if (json.contains(kLogitCap) && json[kLogitCap] == 0) json[kLogitCap] = nullptr;
}

void gemma_to_folder(Json& json) {
  json.erase("use_sliding_window");
  json["hidden_activation"] = json["hidden_act"];
  json.erase("hidden_act");
}

}  // namespace reprise::arch
