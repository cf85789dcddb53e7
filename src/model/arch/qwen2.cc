// Qwen2 and Qwen2.5: Llama with biases on q, k and v. Keys and defaults: Qwen2Config of
// transformers. Its window is off unless use_sliding_window says otherwise, and then on layers from
// max_window_layers on.
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = true;
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  read_switched_windows(keys, text);
}

}  // namespace

Architecture qwen2() {
  return {.name = "Qwen2ForCausalLM",
          .model_type = "qwen2",
          .defaults = {.kv_heads = 32, .max_position = 32768},
          .rope = {},
          .gguf = {.name = "qwen2", .to_folder = write_switched_windows},
          .read = read};
}

}  // namespace reprise::arch
