#include "model/config/folder_config.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/load.h"

namespace reprise {
namespace {

// GGUF keys are F32: the shortest number that is the same there is the one that the writer had.
double shortest(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value) return value;
  return std::strtod(fmt::format("{}", narrow).c_str(), nullptr);
}

void shorten(Json& json) {
  if (json.is_number_float())
    json = shortest(json.get<double>());
  else if (json.is_object() || json.is_array())
    for (auto& item : json.items()) shorten(item.value());
}

bool same(double a, double b) { return std::abs(a - b) <= 1e-5 * std::abs(b); }

double wavelength(const RopeConfig& rope, size_t i) {
  return 2 * std::numbers::pi * std::pow(rope.theta, 2 * static_cast<double>(i) / rope.dim);
}

// What Llama 3's rule divides a frequency by, see rope.cc.
double llama3_factor(double wavelength, double factor, double low, double high, double original) {
  if (wavelength > original / low) return factor;
  if (wavelength < original / high) return 1;
  const double smooth = (original / wavelength - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

// llama.cpp keeps Llama 3's scaling as the factors it comes to. The numbers that they come from are
// those of the releases, or with another original context, or follow from two frequencies between the
// ends, but for a common factor of all three: low is taken to be 1. Whatever fits is the same to every
// frequency. Nullopt where no such rule gives them.
std::optional<Json> llama3_scaling(const RopeConfig& rope) {
  const std::vector<double>& factors = rope.short_factor;
  if (rope.kind != RopeConfig::Kind::LongRope || factors != rope.long_factor || factors.empty() ||
      rope.attention_factor != 1)
    return std::nullopt;
  const double factor = shortest(*std::ranges::max_element(factors));
  const auto fits = [&](double high, double original) {
    for (size_t i = 0; i < factors.size(); ++i)
      if (!same(llama3_factor(wavelength(rope, i), factor, 1, high, original), factors[i]))
        return false;
    return true;
  };
  const auto json = [&](double high, int64_t original) {
    return Json{{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", 1.0},
                {"high_freq_factor", high},
                {"original_max_position_embeddings", original}};
  };
  constexpr double kHigh = 4, kOriginal = 8192;  // of Llama 3.1 to 3.3
  if (fits(kHigh, kOriginal)) return json(kHigh, static_cast<int64_t>(kOriginal));
  for (int64_t original = 16; original <= int64_t{1} << 20; original *= 2)
    if (fits(kHigh, static_cast<double>(original))) return json(kHigh, original);
  std::vector<size_t> between;
  for (size_t i = 0; i < factors.size(); ++i)
    if (factors[i] > 1 && !same(factors[i], 1) && !same(factors[i], factor)) between.push_back(i);
  if (between.size() < 2) return std::nullopt;
  // smooth = (original / wavelength - low) / (high - low): a line over 1 / wavelength.
  const auto smooth = [&](size_t i) { return (1 / factors[i] - 1 / factor) / (1 - 1 / factor); };
  const size_t a = between.front(), b = between.back();
  const double slope =
      (smooth(a) - smooth(b)) / (1 / wavelength(rope, a) - 1 / wavelength(rope, b));
  const double start = smooth(a) - slope / wavelength(rope, a);
  const double high = 1 - 1 / start, original = std::round(slope * (high - 1));
  const double whole = std::round(high * 1000) / 1000;  // F32's noise
  if (!(original >= 1 && whole > 1) || !fits(whole, original)) return std::nullopt;
  return json(whole, static_cast<int64_t>(original));
}

// Rope's factors that the file holds as tensors.
void write_rope_factors(const RopeConfig& rope, Json& json) {
  const bool plain = std::ranges::all_of(rope.short_factor, [](double f) { return f == 1; }) &&
                     rope.short_factor == rope.long_factor && rope.attention_factor == 1;
  json.erase("rope_scaling");
  if (plain) return;
  if (auto llama3 = llama3_scaling(rope)) {
    json["rope_scaling"] = *llama3;
    return;
  }
  Json scaling = {{"short_factor", rope.short_factor}, {"long_factor", rope.long_factor}};
  const auto ratio =
      static_cast<double>(rope.max_position) / static_cast<double>(rope.original_max_position);
  const double usual = long_rope_attention_factor(ratio, rope.original_max_position);
  const Architecture* kind = find_architecture(json["architectures"][0].get<std::string>());
  if (kind && kind->rope.original_max_position > 0) {
    // Phi-3's own form, whose first readers allow no other key.
    scaling["type"] = "longrope";
    json["original_max_position_embeddings"] = rope.original_max_position;
  } else {
    scaling["rope_type"] = "longrope";
    scaling["original_max_position_embeddings"] = rope.original_max_position;
  }
  if (!same(rope.attention_factor, usual)) scaling["attention_factor"] = rope.attention_factor;
  json["rope_scaling"] = scaling;
}

// What generation_config.json's keys are called in GGUF files, behind "general.sampling.".
constexpr std::pair<const char*, const char*> kSampling[] = {
    {"temp", "temperature"},
    {"top_k", "top_k"},
    {"top_p", "top_p"},
    {"min_p", "min_p"},
    {"penalty_repeat", "repetition_penalty"}};

Json generation_config(const GgufMetadata& metadata, const Json& config) {
  Json json;
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (!config[key].is_null()) json[key] = config[key];
  bool samples = false;
  for (const auto& [key, name] : kSampling) {
    const std::string full = std::string("general.sampling.") + key;
    if (!metadata.has(full)) continue;
    if (std::string_view(key) == "top_k")
      json[name] = metadata.get_int(full);
    else
      json[name] = shortest(metadata.get_float(full));
    samples = samples || std::string_view(key) != "penalty_repeat";
  }
  if (samples) json["do_sample"] = true;
  if (json.is_null()) json = Json::object();
  return json;
}

// The name in "architectures" and what `model_type` it has.
const Architecture& architecture_of(const Json& json, const Architecture& kind) {
  const std::string name = json["architectures"][0].get<std::string>();
  if (name == kind.name) return kind;
  const Architecture* other = find_architecture(name);
  REPRISE_CHECK(other, "no architecture '{}'", name);
  return *other;
}

}  // namespace

FolderConfig folder_config(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata;
  const GgufDecoder decoder = read_gguf_decoder(file);
  const TextConfig text = config_from_gguf(file).text;
  Json json = *decoder.keys;
  shorten(json);
  try {
    if (decoder.kind->gguf.to_folder) decoder.kind->gguf.to_folder(json);
  } catch (const Error& error) {
    fail("{}: can't be a folder: {}", metadata.where(), error.what());
  }
  const Architecture& kind = architecture_of(json, *decoder.kind);
  json["model_type"] = kind.model_type;
  json["torch_dtype"] = "float32";
  // Keys that are said for every architecture and mean nothing to this one's code.
  if (!kind.gguf.optional_biases) json.erase("attention_bias");
  if (!json.value("mlp_bias", false)) json.erase("mlp_bias");
  if (kind.defaults.head_dim == 0 && text.head_dim * text.heads == text.d) json.erase("head_dim");
  if (decoder.own) json["reprise"] = *decoder.own;
  if (text.ropes.front().kind == RopeConfig::Kind::LongRope)
    write_rope_factors(text.ropes.front(), json);
  else if (json.contains("rope_scaling") && json["rope_scaling"].contains("attention_factor") &&
           same(json["rope_scaling"]["attention_factor"].get<double>(),
                yarn_attention_factor(json["rope_scaling"]["factor"].get<double>())))
    json["rope_scaling"].erase("attention_factor");  // what its absence means
  shorten(json);

  const int64_t rows = json["vocab_size"].get<int64_t>();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (!json.contains(key)) json[key] = nullptr;  // its absence means some token
  if (const auto pad = metadata.find_int("tokenizer.ggml.padding_token_id"); pad && *pad < rows)
    json["pad_token_id"] = *pad;
  FolderConfig result;
  result.generation = generation_config(metadata, json);
  result.config = std::move(json);
  result.in_transformers = find_architecture(kind.name) != nullptr;
  return result;
}

}  // namespace reprise
