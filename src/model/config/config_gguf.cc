// Config from the keys of a GGUF file: our own files carry config.json as it was under
// "reprise.config"; files of llama.cpp have keys by architecture.
#include "base/error.h"
#include "base/json.h"
#include "model/config/config_parts.h"
#include "model/load.h"

namespace reprise {
namespace {

constexpr int64_t kMostWidth = 1 << 20;
// The folder's file of that name, as convert/stored_files.h keeps it.
constexpr const char* kGenerationConfigKey = "reprise.files.generation_config.json";

// llama.cpp's keys into the ones config_from_json reads, so that there is one reader.
Json decoder_keys(const GgufFile& file, const std::string& arch, const std::string& name) {
  const GgufMetadata& meta = file.metadata;
  const auto key = [&](const char* suffix) { return arch + "." + suffix; };
  Json json;
  json["architectures"] = {name};
  json["num_hidden_layers"] = meta.get_int(key("block_count"), 1, 10000);
  const int64_t d = meta.get_int(key("embedding_length"), 1, kMostWidth);
  const int64_t heads = meta.get_int(key("attention.head_count"), 1, kMostWidth);
  json["hidden_size"] = d;
  json["intermediate_size"] = meta.get_int(key("feed_forward_length"), 1, 16 * kMostWidth);
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = meta.find_int(key("attention.head_count_kv")).value_or(heads);
  if (const auto width = meta.find_int(key("attention.key_length"))) json["head_dim"] = *width;
  json["rms_norm_eps"] = meta.get_float(key("attention.layer_norm_rms_epsilon"));
  json["rope_theta"] = meta.find_float(key("rope.freq_base")).value_or(10000.0);  // GGUF's default
  json["max_position_embeddings"] = meta.get_int(key("context_length"), 1, int64_t{1} << 32);
  json["hidden_act"] = "silu";  // the architecture's, GGUF has no key for it
  const TensorView& embedding = file.weights.get("token_embd.weight");
  if (embedding.shape.size() != 2)
    fail("{}: tensor 'token_embd.weight': expected two dimensions, found {}", meta.where(),
         shape_string(embedding.shape));
  json["vocab_size"] = embedding.shape[0];
  json["tie_word_embeddings"] = file.weights.find("output.weight") == nullptr;
  if (const auto window = meta.find_int(key("attention.sliding_window")))
    if (*window > 0) json["sliding_window"] = *window - 1;  // GGUF counts the token itself
  const std::string scaling = meta.find_string(key("rope.scaling.type")).value_or("none");
  if (scaling == "linear")
    json["rope_scaling"] = {{"type", "linear"},
                            {"factor", meta.get_float(key("rope.scaling.factor"))}};
  else if (scaling != "none")
    meta.fail_at(key("rope.scaling.type"), "expected none or linear, found " + scaling);
  for (const char* special : {"bos", "eos"})
    if (const auto id = meta.find_int(std::string("tokenizer.ggml.") + special + "_token_id"))
      json[std::string(special) + "_token_id"] = *id;
  return json;
}

}  // namespace

ModelConfig config_from_gguf(const GgufFile& file) {
  const GgufMetadata& meta = file.metadata;
  if (const auto own = meta.find_string("reprise.config")) {
    ModelConfig config =
        config_from_json(parse_json(*own, meta.where() + ": key 'reprise.config'"), meta.where());
    if (const auto generation = meta.find_string(kGenerationConfigKey)) {
      const std::string where = fmt::format("{}: key '{}'", meta.where(), kGenerationConfigKey);
      const Json json = parse_json(*generation, where);
      read_end_tokens(JsonObject(json, where), config.eos_tokens);
    }
    return config;
  }
  const std::string arch = meta.get_string("general.architecture");
  std::string name;
  if (arch == "llama")
    name = "LlamaForCausalLM";
  else if (arch == "qwen2")
    name = "Qwen2ForCausalLM";
  else if (arch == "phi3")
    name = "Phi3ForCausalLM";
  else
    meta.fail_at("general.architecture", "unknown architecture '" + arch +
                                             "'; this program reads llama, qwen2, phi3 and its "
                                             "own files (with key 'reprise.config')");
  const Json json = decoder_keys(file, arch, name);
  ModelConfig config = config_from_json(json, meta.where());
  if (arch == "llama") config.text.rope.interleaved = true;  // rows of q and k are permuted
  if (file.weights.find("rope_factors_short.weight") || file.weights.find("rope_freqs.weight"))
    config.text.rope = gguf_rope_factors(file, arch, config.text.rope);
  return config;
}

RopeConfig gguf_rope_factors(const GgufFile& file, const std::string& arch, RopeConfig rope) {
  const size_t expected = static_cast<size_t>(rope.dim / 2);
  const auto read = [&](const char* name) {
    const std::vector<float> values = to_floats(file.weights.get(name));
    if (values.size() != expected)
      fail("{}: tensor '{}': expected {} factors, found {}", file.metadata.where(), name, expected,
           values.size());
    return std::vector<double>(values.begin(), values.end());
  };
  rope.kind = RopeConfig::Kind::LongRope;
  if (file.weights.find("rope_freqs.weight")) {  // Llama 3: one set of factors at every length
    rope.short_factor = rope.long_factor = read("rope_freqs.weight");
    rope.original_max_position = rope.max_position;
    return rope;
  }
  rope.short_factor = read("rope_factors_short.weight");
  rope.long_factor = read("rope_factors_long.weight");
  rope.original_max_position =
      file.metadata.get_int(arch + ".rope.scaling.original_context_length", 2, int64_t{1} << 32);
  rope.attention_factor =
      file.metadata.find_float(arch + ".rope.scaling.attn_factor").value_or(1.0);
  return rope;
}

}  // namespace reprise
