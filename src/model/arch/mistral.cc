// Mistral 7B and what is built like it: Llama whose attention has a window on all layers, unless
// "sliding_window" is null. Keys and defaults: MistralConfig of transformers, whose code has no
// layers of different kinds. llama.cpp's files of it say that they are Llama's.
#include "base/json_object.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  constexpr int64_t kWindow = 4096;
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  if (keys.json.has("layer_types"))
    keys.json.problem_at("layer_types", "is not a key of this architecture: expected none");
  else
    read_windows(keys, kWindow, /*first=*/0, text);
}

}  // namespace

Architecture mistral() {
  return {.name = "MistralForCausalLM",
          .model_type = "mistral",
          .defaults = {.kv_heads = 8, .max_position = 131072},
          .rope = {},
          .gguf = {},
          .read = read};
}

}  // namespace reprise::arch
