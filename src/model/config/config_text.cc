// What all decoders' config.json have in common, and the vision towers' part. What is an
// architecture's own is read in arch/, rope's keys in config_rope.cc.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

constexpr int64_t kMostTileSide = 4096;  // as the image module's

// 0 where the number is wrong and problems are collected.
int read_layers(const JsonObject& json) {
  const size_t before = json.problems();
  const int64_t layers = json.get_int("num_hidden_layers", 1, kMostLayers);
  return json.problems() == before ? static_cast<int>(layers) : 0;
}

bool is_null(const JsonObject& json, const char* key) {
  return json.json().contains(key) && json.json()[key].is_null();
}

// Keys with which other models' code, whose blocks are otherwise like these, computes something
// that is not done here, and what they may be all the same.
void refuse_unknown_parts(const JsonObject& json, const Architecture& kind) {
  const std::pair<const char*, double> keys[] = {{"attn_logit_softcapping", 0},
                                                 {"final_logit_softcapping", 0},
                                                 {"attention_multiplier", 0},
                                                 {"embedding_multiplier", 1},
                                                 {"residual_multiplier", 1},
                                                 {"logits_scaling", 1},
                                                 {"logit_scale", 1},
                                                 {"scale_emb", 1},
                                                 {"scale_depth", 0},
                                                 {"dim_model_base", 0},
                                                 {"clip_qkv", 0},
                                                 {"query_pre_attn_scalar", 0},
                                                 {"attention_chunk_size", 0},
                                                 {"no_rope_layers", 0},
                                                 {"no_rope_layer_interval", 0},
                                                 {"num_local_experts", 0},
                                                 {"num_experts", 0},
                                                 {"n_routed_experts", 0},
                                                 {"num_kv_shared_layers", 0},
                                                 {"rope_local_base_freq", 0},
                                                 {"use_bidirectional_attention", 0},
                                                 {"use_qk_norm", 0},
                                                 {"qk_layernorm", 0},
                                                 {"alibi", 0},
                                                 {"parallel_attn", 0},
                                                 {"use_parallel_residual", 0}};
  for (const auto& [key, neutral] : keys) {
    const auto own = [&](const std::vector<const char*>& list) {
      return std::ranges::count(list, std::string_view(key)) > 0;
    };
    if (!json.has(key) || own(kind.own_flags) || own(kind.own_keys)) continue;
    const Json& value = json.json()[key];
    const bool nothing = (value.is_boolean() && !value.get<bool>()) ||
                         (value.is_number() && (value == 0 || value == neutral)) ||
                         (value.is_structured() && value.empty());
    if (!nothing) json.problem_at(key, value.dump() + " is not supported: expected none");
  }
}

// Where files store q, k and v otherwise than the architecture's own, their config says so: a model
// whose fused matrix was taken apart, or a llama.cpp file that has the fused rows in another order.
// False where it isn't known which tensors there are.
bool read_qkv_layout(const JsonObject& json, TextConfig& text) {
  const size_t before = json.problems();
  const auto own = json.find_object("reprise");
  if (!own || !own->has("qkv")) return json.problems() == before;
  const std::string layout = own->get_string("qkv");
  if (json.problems() != before) return false;
  if (layout != "separate" && layout != "fused" && layout != "grouped") {
    own->problem_at("qkv",
                    "expected \"separate\", \"fused\" or \"grouped\", found \"" + layout + "\"");
    return false;
  }
  text.fused_qkv = layout != "separate";
  text.grouped_qkv = layout == "grouped";
  return true;
}

}  // namespace

double number_in(const JsonObject& json, const std::string& key, double low, double high) {
  const size_t before = json.problems();
  const double value = json.get_number(key);
  if (value >= low && value <= high) return value;
  if (json.problems() == before)  // there, and a number
    json.problem_at(key, fmt::format("expected {} to {}, found {}", low, high, value));
  return low;
}

Unary activation(const JsonObject& json, const std::string& key, const std::string& name) {
  if (name == "silu" || name == "swish") return Unary::Silu;
  if (name == "gelu") return Unary::Gelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast")
    return Unary::GeluTanh;
  if (name == "quick_gelu") return Unary::QuickGelu;
  if (name == "relu") return Unary::Relu;
  json.problem_at(key, "unknown activation '" + name +
                           "'; expected silu, gelu, gelu_pytorch_tanh, quick_gelu or relu");
  return Unary::Silu;
}

std::optional<std::vector<bool>> read_layer_types(const JsonObject& json, int layers) {
  if (!json.has("layer_types")) return std::nullopt;
  const Json& types = json.json()["layer_types"];
  std::vector<bool> windowed(static_cast<size_t>(layers));
  if (!types.is_array() || types.size() != windowed.size()) {
    json.problem_at("layer_types", fmt::format("expected an array of {} names", layers));
    return windowed;
  }
  for (size_t i = 0; i < windowed.size(); ++i) {
    windowed[i] = types[i] == "sliding_attention";
    if (!windowed[i] && types[i] != "full_attention")
      json.problem_at("layer_types",
                      "expected full_attention or sliding_attention, found " + types[i].dump());
  }
  return windowed;
}

const char* norm_eps_key(const Architecture& kind) {
  return kind.norm == NormKind::Layer ? "layer_norm_eps" : "rms_norm_eps";
}

bool read_flag(const DecoderKeys& keys, const char* key, bool absent) {
  const size_t before = keys.json.problems();
  const bool flag = keys.json.find_bool(key).value_or(absent);
  return keys.json.problems() == before ? flag : absent;
}

void refuse_flag(const DecoderKeys& keys, const char* key) {
  if (read_flag(keys, key)) keys.json.problem_at(key, "true is not supported: expected false");
}

void read_windows(const DecoderKeys& keys, int64_t absent, int64_t first, TextConfig& text) {
  read_windows(
      keys, absent, [&](const BlockConfig&, int64_t layer) { return layer >= first; }, text);
}

void read_windows(const DecoderKeys& keys, int64_t absent,
                  const std::function<bool(const BlockConfig& block, int64_t layer)>& has,
                  TextConfig& text) {
  const JsonObject& json = keys.json;
  int64_t window = 0;
  if (json.has("sliding_window"))
    window = json.get_int("sliding_window", 1, kMostTokens);
  else if (!is_null(json, "sliding_window"))
    window = absent;
  const auto types = read_layer_types(json, text.layers);
  for (size_t i = 0; i < text.blocks.size(); ++i) {
    if (!(types ? (*types)[i] : has(text.blocks[i], static_cast<int64_t>(i)))) continue;
    if (types && window == 0) {
      json.problem_at("sliding_window", "is none, but layer_types names sliding_attention");
      return;
    }
    if (window > 0) text.blocks[i].window = window + (keys.dialect == Dialect::Release ? 1 : 0);
  }
}

bool windows_switched_on(const DecoderKeys& keys, const TextConfig& text) {
  if (read_flag(keys, "use_sliding_window")) return true;
  const auto types = read_layer_types(keys.json, text.layers);
  if (types && std::ranges::count(*types, true) > 0)
    keys.json.problem_at("layer_types",
                         "names sliding_attention, but use_sliding_window is not true");
  return false;
}

void read_switched_windows(const DecoderKeys& keys, TextConfig& text) {
  constexpr int64_t kWindow = 4096, kFirst = 28;  // Qwen2Config, Qwen3Config
  const JsonObject& json = keys.json;
  if (!windows_switched_on(keys, text)) return;
  const int64_t first =
      json.has("max_window_layers") ? json.get_int("max_window_layers", 0, kMostTokens) : kFirst;
  read_windows(keys, kWindow, first, text);
}

void write_switched_windows(Json& json) {
  json.erase("layer_types");
  json["use_sliding_window"] = json.contains("sliding_window");
  if (json.contains("sliding_window")) json["max_window_layers"] = 0;
}

void write_no_windows(Json& json) {
  if (json.contains("sliding_window"))
    fail("windows ('sliding_window'): the code of {} has none", json["architectures"][0].dump());
  json.erase("layer_types");
}

TextConfig read_text_config(const JsonObject& json, Dialect dialect) {
  const Json& names = json.json().contains("architectures") ? json.json()["architectures"] : Json();
  if (!names.is_array() || names.size() != 1 || !names[0].is_string())
    json.fail_at("architectures", "expected an array with one name");
  const std::string name = names[0].get<std::string>();
  const Architecture* kind = find_architecture(name);
  if (!kind)
    json.fail_at("architectures",
                 fmt::format("unknown architecture '{}'; this program knows {}, and models of type "
                             "{} around them",
                             name, decoder_names(), release_list()));
  return read_text_config(json, dialect, *kind, name);
}

TextConfig read_text_config(const JsonObject& json, Dialect dialect, const Architecture& kind,
                            std::string name) {
  const KeyDefaults& absent = kind.defaults;
  const DecoderKeys keys = {json, dialect};
  TextConfig text;
  text.kind = &kind;
  text.architecture = std::move(name);
  text.stored_head_counts = dialect == Dialect::Release;
  text.layers = read_layers(json);
  const size_t before = json.problems();
  text.d = static_cast<int>(json.get_int("hidden_size", 1, kMostWidth));
  text.heads = static_cast<int>(json.get_int("num_attention_heads", 1, kMostWidth));
  text.kv_heads = text.heads;
  if (json.has("num_key_value_heads"))
    text.kv_heads = static_cast<int>(json.get_int("num_key_value_heads", 1, text.heads));
  else if (absent.kv_heads > 0 && !is_null(json, "num_key_value_heads"))
    text.kv_heads = absent.kv_heads;
  if (text.heads % text.kv_heads != 0)
    json.problem_at("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}",
                                                       text.kv_heads, text.heads));
  if (json.has("head_dim")) {
    text.head_dim = static_cast<int>(json.get_int("head_dim", 2, kMostWidth));
  } else if (absent.head_dim > 0) {
    text.head_dim = absent.head_dim;
    if (is_null(json, "head_dim")) json.problem_at("head_dim", "expected a number, found null");
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
  const char* eps_key = norm_eps_key(kind);
  text.final_norm.kind = kind.norm;
  text.final_norm.eps = static_cast<float>(
      json.has(eps_key) ? number_in(json, eps_key, kLeastEps, kMostEps) : absent.norm_eps);
  text.activation = activation(
      json, "hidden_act",
      json.has("hidden_act") ? json.get_string("hidden_act") : std::string(absent.activation));
  text.max_position = json.has("max_position_embeddings")
                          ? json.get_int("max_position_embeddings", 1, kMostTokens)
                          : absent.max_position;
  BlockConfig block;
  block.norm = text.final_norm;
  if (sizes_known) block.scale = 1.0f / std::sqrt(static_cast<float>(text.head_dim));
  text.blocks.assign(static_cast<size_t>(text.layers), block);
  const size_t before_head = json.problems();
  text.tied_head = json.find_bool("tie_word_embeddings").value_or(absent.tied_head);
  const bool head_known = json.problems() == before_head;
  kind.read(keys, text);
  const bool qkv_known = read_qkv_layout(json, text);
  if (!head_known || !qkv_known) text.layers = 0;  // decides which tensors there are
  refuse_unknown_parts(json, kind);
  if (sizes_known) read_ropes(json, dialect, text);
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
  vision.activation = activation(json, "hidden_act", json.get_string("hidden_act"));
  return vision;
}

}  // namespace reprise
