// SmolLM3: Llama whose every fourth layer has no rope, or whichever "no_rope_layers" says (its name
// notwithstanding, 0 is a layer without). Keys and defaults: SmolLM3Config of transformers; a window
// is switched on as Qwen's, for layers without rope unless "layer_types" has others. GGUF files have
// no key for those layers: llama.cpp means every fourth, as absent keys do here.
#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"

namespace reprise::arch {
namespace {

constexpr const char* kLayers = "no_rope_layers";
constexpr const char* kInterval = "no_rope_layer_interval";

void read_no_rope_layers(const JsonObject& json, TextConfig& text) {
  const size_t layers = text.blocks.size();
  if (!json.has(kLayers)) {
    const int64_t interval = json.has(kInterval) ? json.get_int(kInterval, 1, kMostLayers) : 4;
    for (size_t i = 0; i < layers; ++i)
      if ((static_cast<int64_t>(i) + 1) % interval == 0) text.blocks[i].rope = kNoRope;
    return;
  }
  const Json& list = json.json()[kLayers];
  bool right = list.is_array() && list.size() >= layers;
  for (size_t i = 0; right && i < layers; ++i) {
    right = list[i].is_number_integer();
    if (list[i] == 0) text.blocks[i].rope = kNoRope;
  }
  if (!right)
    json.problem_at(kLayers, fmt::format("expected an array of {} numbers, 1 for a layer with rope "
                                         "and 0 for one without",
                                         layers));
}

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  text.mlp_bias = read_flag(keys, "mlp_bias");
  read_no_rope_layers(keys.json, text);
  if (windows_switched_on(keys, text))
    read_windows(
        keys, /*absent=*/0, [](const BlockConfig& block, int64_t) { return block.rope == kNoRope; },
        text);
}

void to_folder(Json& json) {
  json["use_sliding_window"] = json.contains("sliding_window");
  if (!json.contains("sliding_window")) json.erase("layer_types");
}

}  // namespace

Architecture smollm3() {
  return {.name = "SmolLM3ForCausalLM",
          .model_type = "smollm3",
          .defaults = {.kv_heads = 4, .max_position = 32768, .rope_theta = 2e6, .tied_head = true},
          .rope = {},
          .gguf = {.name = "smollm3",
                   .interleaved = true,
                   .optional_biases = true,
                   .to_folder = to_folder},
          .own_keys = {kLayers, kInterval},
          .read = read};
}

}  // namespace reprise::arch
