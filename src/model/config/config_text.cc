// The language model's part of config.json: Llama, Qwen2, Phi-3 and InternLM2 in the styles of
// transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters).
#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/json.h"
#include "model/config/config_parts.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

constexpr int64_t kMostLayers = 10000;
constexpr int64_t kMostWidth = 1 << 20;
constexpr int64_t kMostTileSide = 4096;  // as the image module's
constexpr int64_t kMostTokens = int64_t{1} << 32;
// Beyond any model, and far from where float32 ends.
constexpr double kMostTheta = 1e15;
constexpr double kMostFactor = 1e6;
constexpr double kLeastEps = 1e-20, kMostEps = 1;

Unary activation(const JsonObject& json, const std::string& key) {
  const std::string name = json.get_string(key);
  if (name == "silu" || name == "swish") return Unary::Silu;
  if (name == "gelu") return Unary::Gelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Unary::GeluTanh;
  if (name == "quick_gelu") return Unary::QuickGelu;
  json.problem_at(key, "unknown activation '" + name +
                           "'; expected silu, gelu, gelu_pytorch_tanh or quick_gelu");
  return Unary::Silu;
}

// "su", "longrope": sqrt(1 + ln(M / O) / ln(O)); Phi-3's "yarn": 0.1 ln(M / O) + 1.
double long_rope_factor(const std::string& kind, double max, double original) {
  const double ratio = max / original;
  if (ratio <= 1) return 1;
  return kind == "yarn" ? 0.1 * std::log(ratio) + 1
                        : std::sqrt(1 + std::log(ratio) / std::log(original));
}

void read_long_rope(const JsonObject& json, const JsonObject& scaling, const std::string& kind,
                    RopeConfig& rope) {
  rope.kind = RopeConfig::Kind::LongRope;
  rope.short_factor = scaling.get_numbers("short_factor");
  rope.long_factor = scaling.get_numbers("long_factor");
  const size_t expected = static_cast<size_t>(rope.dim / 2);
  if (rope.short_factor.size() != expected)
    scaling.problem_at("short_factor", fmt::format("expected {} numbers, found {}", expected,
                                                   rope.short_factor.size()));
  if (rope.long_factor.size() != expected)
    scaling.problem_at("long_factor", fmt::format("expected {} numbers, found {}", expected,
                                                  rope.long_factor.size()));
  for (const auto* factors : {&rope.short_factor, &rope.long_factor})
    for (double factor : *factors)
      if (!(factor >= 1 / kMostFactor && factor <= kMostFactor))
        scaling.problem_at(
            "short_factor, long_factor",
            fmt::format("expected {} to {}, found {}", 1 / kMostFactor, kMostFactor, factor));
  const JsonObject& holder = scaling.has("original_max_position_embeddings") ? scaling : json;
  rope.original_max_position = holder.get_int("original_max_position_embeddings", 2, kMostTokens);
  rope.attention_factor =
      scaling.find_number("attention_factor")
          .value_or(long_rope_factor(kind, static_cast<double>(rope.max_position),
                                     static_cast<double>(rope.original_max_position)));
}

// A number that must lie in [low, high]; low where it doesn't and problems are collected.
double number_in(const JsonObject& json, const std::string& key, double low, double high) {
  const size_t before = json.problems();
  const double value = json.get_number(key);
  if (value >= low && value <= high) return value;
  if (json.problems() == before)  // there, and a number
    json.problem_at(key, fmt::format("expected {} to {}, found {}", low, high, value));
  return low;
}

// 0 where the number is wrong and problems are collected.
int read_layers(const JsonObject& json) {
  const size_t before = json.problems();
  const int64_t layers = json.get_int("num_hidden_layers", 1, kMostLayers);
  return json.problems() == before ? static_cast<int>(layers) : 0;
}

RopeConfig read_rope(const JsonObject& json, int head_dim, int64_t max_position) {
  RopeConfig rope;
  rope.max_position = max_position;
  const auto parameters = json.find_object("rope_parameters");  // transformers 5
  const JsonObject& base = parameters ? *parameters : json;
  rope.theta = number_in(base, "rope_theta", 1, kMostTheta);
  if (parameters)
    for (const char* key : {"rope_theta", "rope_scaling"})
      if (json.has(key) && (!parameters->has(key) || json.json()[key] != parameters->json()[key]))
        json.problem_at(key, "contradicts rope_parameters, which is there too");
  const double partial =
      base.has("partial_rotary_factor") ? number_in(base, "partial_rotary_factor", 0, 1) : 1.0;
  rope.dim = static_cast<int>(head_dim * partial);
  if (rope.dim < 2 || rope.dim % 2 != 0)
    base.problem_at("partial_rotary_factor",
                    fmt::format("gives {} rotated components, expected an even number", rope.dim));
  const auto scaling = parameters ? parameters : json.find_object("rope_scaling");
  if (!scaling) return rope;
  const std::string key = scaling->has("rope_type") ? "rope_type" : "type";
  const std::string kind = scaling->get_string(key);
  if (kind == "default") return rope;
  if (kind == "linear" || kind == "dynamic") {
    rope.kind = kind == "linear" ? RopeConfig::Kind::Linear : RopeConfig::Kind::Dynamic;
    rope.factor = number_in(*scaling, "factor", 1, kMostFactor);
    if (rope.kind == RopeConfig::Kind::Dynamic && rope.dim < 4)
      scaling->fail_at(
          key, fmt::format("\"dynamic\" needs 4 or more rotated components, found {}", rope.dim));
  } else if (kind == "su" || kind == "longrope" || kind == "yarn") {
    // Of the families read here only Phi-3 has "yarn", and means its own variant with two factors.
    read_long_rope(json, *scaling, kind, rope);
  } else if (kind == "llama3") {
    rope.kind = RopeConfig::Kind::Llama3;
    rope.factor = scaling->get_number("factor");
    rope.low_freq_factor = scaling->get_number("low_freq_factor");
    rope.high_freq_factor = scaling->get_number("high_freq_factor");
    rope.original_max_position =
        scaling->get_int("original_max_position_embeddings", 2, kMostTokens);
    if (!(rope.factor >= 1 && rope.low_freq_factor > 0 &&
          rope.high_freq_factor > rope.low_freq_factor))
      scaling->fail_at(key, "factor, low_freq_factor and high_freq_factor contradict each other");
  } else {
    scaling->fail_at(key, "unknown rope scaling '" + kind +
                              "'; expected default, linear, dynamic, su, longrope, yarn or llama3");
  }
  return rope;
}

const std::map<std::string, TextFamily>& architectures() {
  static const std::map<std::string, TextFamily> known = {
      {"LlamaForCausalLM", TextFamily::Llama},
      {"Qwen2ForCausalLM", TextFamily::Qwen2},
      {"Phi3ForCausalLM", TextFamily::Phi3},
      {"InternLM2ForCausalLM", TextFamily::InternLm2}};
  return known;
}

}  // namespace

bool is_text_architecture(const std::string& name) { return architectures().contains(name); }

TextConfig read_text_config(const JsonObject& json) {
  const Json& names = json.json().contains("architectures") ? json.json()["architectures"] : Json();
  if (!names.is_array() || names.size() != 1 || !names[0].is_string())
    json.fail_at("architectures", "expected an array with one name");
  const std::string name = names[0].get<std::string>();
  const auto it = architectures().find(name);
  if (it == architectures().end())
    json.fail_at("architectures", "unknown architecture '" + name +
                                      "'; this program knows LlamaForCausalLM, Qwen2ForCausalLM, "
                                      "Phi3ForCausalLM and InternLM2ForCausalLM, and models of "
                                      "type " +
                                      release_list() + " around them");
  return read_text_config(json, it->second, name);
}

TextConfig read_text_config(const JsonObject& json, TextFamily family, std::string architecture) {
  TextConfig text;
  text.architecture = std::move(architecture);
  text.family = family;
  text.qkv_bias = family == TextFamily::Qwen2;
  text.fused_qkv = family == TextFamily::Phi3 || family == TextFamily::InternLm2;
  text.grouped_qkv = family == TextFamily::InternLm2;
  text.fused_gate_up = family == TextFamily::Phi3;
  if (family == TextFamily::InternLm2 && json.get_bool("bias"))
    json.problem_at("bias", "true is not supported: expected false");
  text.layers = read_layers(json);
  const size_t before = json.problems();
  text.d = static_cast<int>(json.get_int("hidden_size", 1, kMostWidth));
  text.heads = static_cast<int>(json.get_int("num_attention_heads", 1, kMostWidth));
  text.kv_heads = json.has("num_key_value_heads")
                      ? static_cast<int>(json.get_int("num_key_value_heads", 1, text.heads))
                      : text.heads;  // transformers' meaning of an absent key
  if (text.heads % text.kv_heads != 0)
    json.problem_at("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}",
                                                       text.kv_heads, text.heads));
  if (json.has("head_dim")) {
    text.head_dim = static_cast<int>(json.get_int("head_dim", 2, kMostWidth));
  } else if (text.d % text.heads == 0) {
    text.head_dim = text.d / text.heads;
  } else if (json.problems() == before) {
    json.problem_at("num_attention_heads",
                    fmt::format("{} does not divide hidden_size {}", text.heads, text.d));
  }
  const bool sizes_known = json.problems() == before;
  text.ffn = static_cast<int>(json.get_int("intermediate_size", 1, kMostWidth * 16));
  text.vocab = json.get_int("vocab_size", 1, 1 << 24);
  text.embed_rows = text.vocab;
  text.norm_eps = static_cast<float>(number_in(json, "rms_norm_eps", kLeastEps, kMostEps));
  text.activation = activation(json, "hidden_act");
  // Absent means false in transformers for all of these.
  const size_t before_head = json.problems();
  text.tied_head = json.find_bool("tie_word_embeddings").value_or(false);
  if (json.problems() > before_head) text.layers = 0;  // decides which tensors there are
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (json.find_bool(key).value_or(false))
      json.problem_at(key, "true is not supported: expected false");
  text.max_position = json.get_int("max_position_embeddings", 1, kMostTokens);
  // Qwen2 names a window that is off unless use_sliding_window says otherwise.
  const bool window_on =
      text.family != TextFamily::Qwen2 || json.find_bool("use_sliding_window").value_or(false);
  if (window_on && json.has("sliding_window"))
    text.window = json.get_int("sliding_window", 1, kMostTokens);
  if (text.window > 0 && text.family == TextFamily::Qwen2) {
    // Layers from max_window_layers on have the window, those before see everything.
    const int64_t first = json.get_int("max_window_layers", 0, kMostLayers);
    if (first >= text.layers)
      text.window = 0;
    else if (first > 0)
      json.problem_at("max_window_layers",
                      fmt::format("a window on some layers only is not supported: expected 0, or "
                                  "{} for none, found {}",
                                  text.layers, first));
  }
  if (sizes_known) text.rope = read_rope(json, text.head_dim, text.max_position);
  return text;
}

VisionConfig read_vision_config(const JsonObject& json) {
  VisionConfig vision;
  const size_t before = json.problems();
  bool tensors_known = true;
  const std::string type = json.get_string("model_type");
  if (type == "intern_vit_6b" || type == "intern_vit_300m") {
    vision.kind = VisionConfig::Kind::InternVit;
    vision.qkv_bias = json.get_bool("qkv_bias");
    tensors_known = json.problems() == before;
    if (json.get_bool("qk_normalization"))
      json.problem_at("qk_normalization", "true is not supported: expected false");
    if (json.get_string("norm_type") != "layer_norm")
      json.problem_at("norm_type", "expected \"layer_norm\"");
  } else if (type == "clip_vision_model") {
    vision.kind = VisionConfig::Kind::Clip;
  } else {
    json.fail_at("model_type", "unknown vision tower '" + type +
                                   "'; expected intern_vit_300m, intern_vit_6b or "
                                   "clip_vision_model");
  }
  vision.d = static_cast<int>(json.get_int("hidden_size", 1, kMostWidth));
  vision.layers = read_layers(json);
  if (!tensors_known) vision.layers = 0;
  vision.heads = static_cast<int>(json.get_int("num_attention_heads", 1, vision.d));
  if (vision.d % vision.heads != 0)
    json.problem_at("num_attention_heads",
                    fmt::format("{} does not divide hidden_size {}", vision.heads, vision.d));
  vision.ffn = static_cast<int>(json.get_int("intermediate_size", 1, kMostWidth));
  vision.patch = static_cast<int>(json.get_int("patch_size", 1, 1024));
  vision.image_size = static_cast<int>(json.get_int("image_size", vision.patch, kMostTileSide));
  vision.norm_eps = static_cast<float>(number_in(json, "layer_norm_eps", kLeastEps, kMostEps));
  vision.activation = activation(json, "hidden_act");
  return vision;
}

}  // namespace reprise
