// Qwen3, its dense models: Llama with RMS norms over each head of q and k, and heads whose width is
// a key of its own. Keys and defaults: Qwen3Config of transformers; windows as Qwen2's.
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  for (BlockConfig& block : text.blocks) block.qk_norm = true;
  refuse_flag(keys, "mlp_bias");
  read_switched_windows(keys, text);
}

}  // namespace

Architecture qwen3() {
  return {.name = "Qwen3ForCausalLM",
          .model_type = "qwen3",
          .defaults = {.kv_heads = 32, .head_dim = 128, .max_position = 32768},
          .rope = {},
          .gguf = {.name = "qwen3", .optional_biases = true, .to_folder = write_switched_windows},
          .read = read};
}

}  // namespace reprise::arch
