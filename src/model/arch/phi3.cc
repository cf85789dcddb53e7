// Phi-3, 3.5 and 4-mini: q, k, v in one matrix, gate and up in one, LongRoPE, partial rotation.
// Keys and defaults: Phi3Config of transformers. Its old names for LongRoPE are "su" and "yarn";
// the code that the first releases came with (Dialect::Release) had another factor for the latter.
#include "base/json.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.fused_qkv = text.fused_gate_up = true;
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/0, text);
}

// Its code has windows on all layers or on none.
void to_folder(Json& json) {
  json.erase("layer_types");
  json.erase("use_sliding_window");
}

}  // namespace

Architecture phi3() {
  return {.name = "Phi3ForCausalLM",
          .model_type = "phi3",
          .defaults = {.norm_eps = 1e-5, .max_position = 4096},
          .rope = {.partial_key = "partial_rotary_factor",
                   .yarn_is_long_rope = true,
                   .original_max_position = 4096},
          .gguf = {.name = "phi3", .to_folder = to_folder},
          .read = read};
}

}  // namespace reprise::arch
