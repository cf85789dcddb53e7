// Llama 1 to 3 and the many models built like it (TinyLlama, SmolLM2, ...): pre-norm blocks, GQA,
// SwiGLU. Keys and defaults: LlamaConfig of transformers, whose attention has no window whatever
// "sliding_window" says.
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  text.mlp_bias = read_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
}

}  // namespace

Architecture llama() {
  return {.name = "LlamaForCausalLM",
          .defaults = {.max_position = 2048},
          .rope = {},
          .gguf = {.name = "llama", .interleaved = true, .optional_biases = true},
          .read = read};
}

}  // namespace reprise::arch
