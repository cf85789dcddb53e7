// The parts config_from_json is made of.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json_object.h"
#include "formats/gguf.h"
#include "model/config/config.h"

namespace reprise {

// A decoder's keys: of an architecture that arch/ has, by the name in "architectures".
TextConfig read_text_config(const JsonObject& json, Dialect dialect);
// The same where "architectures" names something around the decoder, called `name` in messages.
TextConfig read_text_config(const JsonObject& json, Dialect dialect, const Architecture& kind,
                            std::string name);
// Rope's keys into text.ropes, and which of them each block has. The decoder's sizes are known.
void read_ropes(const JsonObject& json, Dialect dialect, TextConfig& text);
// "vision_config" of InternViT and CLIP; shuffle and projector_hidden are left to the caller.
VisionConfig read_vision_config(const JsonObject& json);

// Adds the ids of "eos_token_id" (config.json, generation_config.json), which may be absent, that
// `tokens` doesn't have yet. Throws Error, or notes it, where it is no id or list of ids.
void read_end_tokens(const JsonObject& json, std::vector<int64_t>& tokens);

// What a llama.cpp file says of its decoder, but for rope's factors, which it holds as tensors.
struct GgufDecoder {
  const Architecture* kind = nullptr;
  JsonValue keys;                // as config.json has them
  std::optional<JsonValue> own;  // what config.json has under "reprise" (kOwnKeysKey)
};
// Throws Error naming file and key.
GgufDecoder read_gguf_decoder(const GgufFile& file);

// ---- What several readers need.

inline constexpr int64_t kMostLayers = 10000;
inline constexpr int64_t kMostWidth = 1 << 20;
inline constexpr int64_t kMostTokens = int64_t{1} << 32;
inline constexpr double kLeastEps = 1e-20, kMostEps = 1;

// Rope's factor on cos and sin where none is given; 1 where `factor` is 1 or less. YaRN's (arXiv
// 2309.00071): 0.1 scale ln(factor) + 1. LongRoPE's: sqrt(1 + ln(factor) / ln(original)), `factor`
// being the ratio of the two contexts.
double yarn_attention_factor(double factor, double scale = 1);
double long_rope_attention_factor(double factor, int64_t original);
// A number that must lie in [low, high]; low where it doesn't and problems are collected.
double number_in(const JsonObject& json, const std::string& key, double low, double high);
// The activation that transformers calls `name`; `key` is where it was said.
Unary activation(const JsonObject& json, const std::string& key, const std::string& name);
// Which layers "layer_types" gives a window; nullopt where it is absent.
std::optional<std::vector<bool>> read_layer_types(const JsonObject& json, int layers);

}  // namespace reprise
