// Llama 1 to 3 and the many models built like it (TinyLlama, SmolLM2, ...): pre-norm blocks, GQA,
// SwiGLU. Keys and defaults: LlamaConfig of transformers, whose attention has no window whatever
// "sliding_window" says.
#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"

namespace reprise {

void write_llama_windows(Json& json) {
  json.erase("layer_types");
  json.erase("use_sliding_window");
  if (!json.contains("sliding_window")) return;
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (json.value(bias, false))
      fail("windows ('sliding_window') beside biases: no code in transformers has both");
    json.erase(bias);
  }
  json["architectures"] = {"MistralForCausalLM"};
}

namespace arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  text.mlp_bias = read_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
}

}  // namespace

Architecture llama() {
  return {.name = "LlamaForCausalLM",
          .model_type = "llama",
          .defaults = {.max_position = 2048},
          .rope = {},
          .gguf = {.name = "llama",
                   .interleaved = true,
                   .optional_biases = true,
                   .to_folder = write_llama_windows},
          .read = read};
}

}  // namespace arch
}  // namespace reprise
