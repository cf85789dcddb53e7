// Config from the keys of a GGUF file: our own files carry config.json as it was under
// "reprise.config"; files of llama.cpp have keys by architecture. Those are turned into the keys
// that config_from_json reads, so that there is one reader; what they leave out means what
// llama.cpp means by that.
#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "formats/model_source.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/load.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

// The folder's file of that name, as convert/stored_files.h keeps it.
constexpr const char* kGenerationConfigKey = "reprise.files.generation_config.json";

// The keys "<architecture>.<suffix>" of a file.
struct GgufKeys {
  const GgufMetadata& meta;
  std::string prefix;  // "llama."

  std::string name(const char* suffix) const { return prefix + suffix; }
  int64_t get_int(const char* suffix, int64_t low, int64_t high) const {
    return meta.get_int(name(suffix), low, high);
  }
  double get_float(const char* suffix) const { return meta.get_float(name(suffix)); }
  std::optional<int64_t> find_int(const char* suffix) const { return meta.find_int(name(suffix)); }
  std::optional<double> find_float(const char* suffix) const {
    return meta.find_float(name(suffix));
  }
};

// Keys that other architectures of llama.cpp have and that would change what is computed. The
// second value says that they don't, and so does 0 or false, but for attention.causal.
void refuse_unknown_parts(const GgufKeys& keys, const Architecture& kind) {
  const std::pair<const char*, double> parts[] = {{"expert_count", 0},
                                                  {"expert_shared_count", 0},
                                                  {"attn_logit_softcapping", 0},
                                                  {"final_logit_softcapping", 0},
                                                  {"logit_scale", 1},
                                                  {"residual_scale", 1},
                                                  {"embedding_scale", 1},
                                                  {"attention.scale", 0},
                                                  {"attention.output_scale", 1},
                                                  {"attention.clamp_kqv", 0},
                                                  {"attention.max_alibi_bias", 0},
                                                  {"attention.causal", 1},
                                                  {"attention.temperature_scale", 0},
                                                  {"attention.temperature_length", 0},
                                                  {"attention.sliding_window_pattern", 0},
                                                  {"attention.shared_kv_layers", 0},
                                                  {"attention.key_length_mla", 0},
                                                  {"rope.dimension_sections", 0},
                                                  {"rope.scaling.alpha", 0},
                                                  {"use_parallel_residual", 0},
                                                  {"full_attention_interval", 0},
                                                  {"nextn_predict_layers", 0},
                                                  {"swin_norm", 0},
                                                  {"pooling_type", 0}};
  const char* windowed_theta = "rope.freq_base_swa";
  if (!kind.gguf.windowed_theta && keys.find_float(windowed_theta).value_or(0) != 0)
    keys.meta.fail_at(keys.name(windowed_theta), "is not supported in this architecture");
  for (const auto& [suffix, neutral] : parts) {
    if (std::ranges::count(kind.own_flags, std::string_view(suffix)) > 0 ||
        std::ranges::count(kind.gguf.keys, std::string_view(suffix)) > 0)
      continue;
    const GgufValue* value = keys.meta.find(keys.name(suffix));
    if (!value) continue;
    const bool* flag = std::get_if<bool>(value);
    const bool number = !std::holds_alternative<GgufArray>(*value) &&
                        !std::holds_alternative<std::string>(*value) && !flag;
    const double found = flag ? (*flag ? 1 : 0) : number ? keys.get_float(suffix) : NAN;
    const bool nothing =
        found == neutral || (found == 0 && std::string_view(suffix) != "attention.causal");
    if (!nothing) keys.meta.fail_at(keys.name(suffix), "is not supported in this architecture");
  }
}

// The fraction that `dim` of `head_dim` components are, such that their product rounds down to dim.
double partial_factor(int64_t dim, int64_t head_dim) {
  double factor = static_cast<double>(dim) / static_cast<double>(head_dim);
  while (static_cast<int64_t>(static_cast<double>(head_dim) * factor) < dim)
    factor = std::nextafter(factor, 1.0);
  return factor;
}

// rope.scaling.* -> rope_scaling. YaRN as llama.cpp has it since it takes cos and sin times
// 0.1 ln(factor) + 1 once: yarn_attn_factor is what its converter writes for attention_factor,
// attn_factor comes on top of it, and yarn_log_multiplier is mscale_all_dim beside an mscale of 1.
Json rope_scaling(const GgufKeys& keys, int64_t context) {
  // The type's default there is "linear", whose factor's is 1; scale_linear is the factor's old
  // name.
  const std::string type = keys.meta.find_string(keys.name("rope.scaling.type")).value_or("linear");
  const double found = keys.find_float("rope.scaling.factor")
                           .value_or(keys.find_float("rope.scale_linear").value_or(0));
  const double factor = found == 0 ? 1 : found;
  const double on_top = keys.find_float("rope.scaling.attn_factor").value_or(1);
  if (type == "none" || type == "longrope" || (type == "linear" && factor == 1)) return {};
  if (type == "linear") {
    if (on_top != 1)
      keys.meta.fail_at(keys.name("rope.scaling.attn_factor"), "expected 1 beside a linear factor");
    return {{"rope_type", "linear"}, {"factor", factor}};
  }
  if (type != "yarn")
    keys.meta.fail_at(keys.name("rope.scaling.type"),
                      "expected none, linear, yarn or longrope, found " + type);
  if (keys.find_float("rope.scaling.yarn_ext_factor").value_or(1) != 1)
    keys.meta.fail_at(keys.name("rope.scaling.yarn_ext_factor"), "expected 1, or none");
  Json json = {{"rope_type", "yarn"},
               {"factor", factor},
               {"original_max_position_embeddings",
                keys.find_int("rope.scaling.original_context_length").value_or(context)}};
  for (const char* key : {"beta_fast", "beta_slow"})
    if (const auto beta = keys.find_float((std::string("rope.scaling.yarn_") + key).c_str()))
      json[key] = *beta;
  const auto magnitude = [&](double scale) { return yarn_attention_factor(factor, scale); };
  const double all_dims = keys.find_float("rope.scaling.yarn_log_multiplier").value_or(0);
  const double usual = all_dims == 0 ? magnitude(1) : magnitude(1) / magnitude(all_dims);
  json["attention_factor"] =
      on_top * keys.find_float("rope.scaling.yarn_attn_factor").value_or(usual);
  return json;
}

// Whether a token is one of those that stand for no text (control) or a whole one (user-defined).
bool is_added_token(const GgufMetadata& meta, int64_t id) {
  constexpr const char* kTypes = "tokenizer.ggml.token_type";
  if (!meta.has(kTypes)) return false;
  const std::vector<int64_t> types = meta.get_ints(kTypes);
  return id >= 0 && id < std::ssize(types) &&
         (types[static_cast<size_t>(id)] == 3 || types[static_cast<size_t>(id)] == 4);
}

Json decoder_keys(const GgufFile& file, const GgufKeys& keys, const Architecture& kind) {
  const GgufMetadata& meta = file.metadata;
  refuse_unknown_parts(keys, kind);
  Json json;
  json["architectures"] = {kind.name};
  const int64_t layers = keys.get_int("block_count", 1, kMostLayers);
  const int64_t d = keys.get_int("embedding_length", 1, kMostWidth);
  const int64_t heads = keys.get_int("attention.head_count", 1, kMostWidth);
  const int64_t context = keys.get_int("context_length", 1, kMostTokens);
  json["num_hidden_layers"] = layers;
  json["hidden_size"] = d;
  json["intermediate_size"] = keys.get_int("feed_forward_length", 1, 16 * kMostWidth);
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = keys.find_int("attention.head_count_kv").value_or(heads);
  const int64_t head_dim = keys.find_int("attention.key_length").value_or(d / heads);
  if (keys.meta.has(keys.name("attention.key_length")) || d % heads == 0)
    json["head_dim"] = head_dim;
  json[norm_eps_key(kind)] =
      keys.get_float(kind.norm == NormKind::Layer ? "attention.layer_norm_epsilon"
                                                  : "attention.layer_norm_rms_epsilon");
  json["max_position_embeddings"] = context;
  json["hidden_act"] = kind.defaults.activation;  // GGUF has no key for it
  const TensorView& embedding = file.weights.get("token_embd.weight");
  if (embedding.shape.size() != 2)
    fail("{}: tensor 'token_embd.weight': expected two dimensions, found {}", meta.where(),
         shape_string(embedding.shape));
  json["vocab_size"] = embedding.shape[0];
  json["tie_word_embeddings"] = file.weights.find("output.weight") == nullptr;
  // Tensors that a llama.cpp file has or has not, where config.json has a flag.
  json["attention_bias"] = kind.gguf.optional_biases && (file.weights.find("blk.0.attn_q.bias") ||
                                                         file.weights.find("blk.0.attn_qkv.bias"));
  json["mlp_bias"] = kind.gguf.optional_biases && file.weights.find("blk.0.ffn_gate.bias");
  if (const int64_t window = keys.find_int("attention.sliding_window").value_or(0); window > 0) {
    json["sliding_window"] = window;
    json["use_sliding_window"] = true;
    json["layer_types"] =
        std::vector<std::string>(static_cast<size_t>(layers), "sliding_attention");
  }
  for (const char* flag : kind.own_flags) json[flag] = meta.get_bool(keys.name(flag));
  for (const char* key : kind.gguf.keys)
    if (const GgufValue* value = meta.find(keys.name(key))) {
      if (const bool* flag = std::get_if<bool>(value))
        json[key] = *flag;
      else if (std::holds_alternative<float>(*value) || std::holds_alternative<double>(*value))
        json[key] = keys.get_float(key);
      else
        json[key] = *keys.find_int(key);
    }
  json[kind.rope.theta_key] = keys.find_float("rope.freq_base").value_or(10000.0);
  if (kind.gguf.windowed_theta)
    if (const auto theta = keys.find_float(kind.gguf.windowed_theta))
      json[kind.rope.windowed_theta_key] = *theta;
  const bool partial = kind.rope.partial_key;
  const int64_t dim = keys.find_int("rope.dimension_count").value_or(head_dim);
  if (dim < (partial ? 2 : head_dim) || dim > head_dim)
    meta.fail_at(keys.name("rope.dimension_count"),
                 fmt::format("expected {}{}, found {}", partial ? "2 to " : "", head_dim, dim));
  if (partial) json[kind.rope.partial_key] = partial_factor(dim, head_dim);
  if (const Json scaling = rope_scaling(keys, context); !scaling.is_null())
    json["rope_scaling"] = scaling;
  if (kind.gguf.complete) kind.gguf.complete(json);
  const auto token = [&](const std::string& role) {
    return meta.find_int("tokenizer.ggml." + role + "_token_id");
  };
  if (const auto bos = token("bos")) json["bos_token_id"] = *bos;
  // A turn's end (eot) and a message's (eom) end an answer too, where they are told apart. Gemma's
  // files name one whatever the vocabulary, so it counts only where no text is written with it.
  std::vector<int64_t> ends;
  for (const char* role : {"eos", "eot", "eom"})
    if (const auto id = token(role); id && std::ranges::count(ends, *id) == 0)
      if (std::string_view(role) == "eos" || is_added_token(meta, *id)) ends.push_back(*id);
  if (!ends.empty()) json["eos_token_id"] = ends.size() == 1 ? Json(ends[0]) : Json(ends);
  return json;
}

// Rope's factors that llama.cpp keeps as tensors: each frequency is divided by its own.
void read_rope_factors(const GgufFile& file, const GgufKeys& keys, RopeConfig& rope) {
  const auto read = [&](const char* name) {
    std::vector<double> factors;
    const size_t expected = static_cast<size_t>(rope.dim / 2);
    // On top of a linear factor, where there is one.
    for (const float value : to_floats(file.weights.get(name))) {
      if (!(value > 0 && value <= std::numeric_limits<float>::max()))
        fail("{}: tensor '{}': expected factors above 0, found {}", file.metadata.where(), name,
             value);
      factors.push_back(value * (rope.kind == RopeConfig::Kind::Linear ? rope.factor : 1));
    }
    if (factors.size() != expected)
      fail("{}: tensor '{}': expected {} factors, found {}", file.metadata.where(), name, expected,
           factors.size());
    return factors;
  };
  const bool one_set = file.weights.find("rope_freqs.weight");  // Llama 3: at every length
  if (!one_set && !file.weights.find("rope_factors_short.weight")) {
    if (keys.meta.find_string(keys.name("rope.scaling.type")) == "longrope")
      keys.meta.fail_at(keys.name("rope.scaling.type"),
                        "longrope, but there is no tensor 'rope_factors_short.weight'");
    return;
  }
  if (rope.kind != RopeConfig::Kind::Plain && rope.kind != RopeConfig::Kind::Linear)
    keys.meta.fail_at(keys.name("rope.scaling.type"),
                      "contradicts the rope factors that the file holds as tensors");
  if (one_set) {
    rope.short_factor = rope.long_factor = read("rope_freqs.weight");
    rope.original_max_position = rope.max_position;
  } else {
    rope.short_factor = read("rope_factors_short.weight");
    rope.long_factor = read("rope_factors_long.weight");
    rope.original_max_position = rope.max_position;
    if (keys.meta.has(keys.name("rope.scaling.original_context_length")))
      rope.original_max_position =
          keys.get_int("rope.scaling.original_context_length", 2, kMostTokens);
  }
  rope.kind = RopeConfig::Kind::LongRope;
  rope.attention_factor = keys.find_float("rope.scaling.attn_factor").value_or(1.0);
}

}  // namespace

GgufDecoder read_gguf_decoder(const GgufFile& file) {
  const GgufMetadata& meta = file.metadata;
  const std::string type = meta.find_string("general.type").value_or("model");
  const std::string name = meta.get_string("general.architecture");
  if (type == "adapter")
    meta.fail_at("general.type",
                 "is an adapter, not a whole model: merge it into its model first "
                 "(llama.cpp's llama-export-lora)");
  if (type == "mmproj" || name == "clip")
    meta.fail_at("general.type",
                 "is the vision or audio part of a model (mmproj), which this program "
                 "doesn't read: expected the file of its language model");
  const Architecture* kind = find_gguf_decoder(name);
  if (!kind)
    meta.fail_at("general.architecture", "unknown architecture '" + name +
                                             "'; this program reads " + gguf_decoder_names() +
                                             " and its own files (with key 'reprise.config')");
  GgufDecoder decoder;
  decoder.kind = kind;
  Json json = decoder_keys(file, {meta, name + "."}, *kind);
  if (const auto own_keys = meta.find_string(kOwnKeysKey)) {
    const std::string where = fmt::format("{}: key '{}'", meta.where(), kOwnKeysKey);
    Json own = parse_json(*own_keys, where);
    JsonObject(own, where);  // Error unless it is an object
    // Which kind each layer is: llama.cpp's keys leave that to the layer's number.
    for (const char* key : {"layer_types", "no_rope_layers"}) {
      if (own.contains(key)) json[key] = own[key];
      own.erase(key);
    }
    decoder.own = std::move(own);
  }
  if (const auto plan = meta.find_string(kPlanKey)) {
    Json own = Json::object();
    if (decoder.own) own = *decoder.own;
    own["plan"] = *plan;
    decoder.own = std::move(own);
  }
  decoder.keys = std::move(json);
  return decoder;
}

ModelConfig config_from_gguf(const GgufFile& file) {
  const GgufMetadata& meta = file.metadata;
  if (const auto own = meta.find_string(kConfigKey)) {
    ModelConfig config =
        config_from_json(parse_json(*own, meta.where() + ": key 'reprise.config'"), meta.where());
    if (const auto plan = meta.find_string(kPlanKey); plan && *plan != config.plan)
      meta.fail_at(kPlanKey,
                   fmt::format("says '{}', config.json in key '{}' says '{}'; expected the same in "
                               "both ('reprise plan store' writes both)",
                               *plan, kConfigKey, config.plan));
    if (const auto generation = meta.find_string(kGenerationConfigKey)) {
      const std::string where = fmt::format("{}: key '{}'", meta.where(), kGenerationConfigKey);
      const Json json = parse_json(*generation, where);
      read_end_tokens(JsonObject(json, where), config.eos_tokens);
    }
    return config;
  }
  const GgufDecoder decoder = read_gguf_decoder(file);
  const GgufForm& form = decoder.kind->gguf;
  Json json = *decoder.keys;
  if (form.qkv) json["reprise"] = {{"qkv", form.qkv}};
  if (decoder.own) json["reprise"].update(*decoder.own);
  ModelConfig config = config_from_json(json, meta.where());
  TextConfig& text = config.text;
  const GgufKeys keys = {meta, meta.get_string("general.architecture") + "."};
  for (RopeConfig& rope : text.ropes) {
    rope.interleaved = form.interleaved;
    read_rope_factors(file, keys, rope);
  }
  if (form.norm_offset_added) {
    text.final_norm.offset = 0;
    for (BlockConfig& block : text.blocks) block.norm.offset = 0;
  }
  return config;
}

}  // namespace reprise
