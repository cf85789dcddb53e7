// OLMo-2: no norms before attention and MLP but behind them, and norms over all of q and all of k
// before they are split into heads. Keys and defaults: Olmo2Config of transformers, whose code has no
// windows. llama.cpp's files of OLMo-3, which has, say that they are OLMo-2's.
#include "base/json_object.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  for (BlockConfig& block : text.blocks) {
    block.pre_norm = false;
    block.post_norm = PostNorm::Branch;
    block.qk_norm = QkNorm::All;
  }
  if (keys.json.has("layer_types"))
    keys.json.problem_at("layer_types", "is not a key of this architecture: expected none");
}

const NameTable& names() {
  static const NameTable table = [] {
    NameTable olmo = hugging_face_names();
    olmo.names.erase("attn_norm");
    olmo.names.erase("mlp_norm");
    olmo.names["attn_post_norm"] = "post_attention_layernorm";
    olmo.names["mlp_post_norm"] = "post_feedforward_layernorm";
    return olmo;
  }();
  return table;
}

}  // namespace

Architecture olmo2() {
  return {.name = "Olmo2ForCausalLM",
          .model_type = "olmo2",
          .defaults = {.norm_eps = 1e-5, .max_position = 2048},
          .rope = {},
          .gguf = {.name = "olmo2", .optional_biases = true, .to_folder = write_no_windows},
          .names = &names(),
          .read = read};
}

}  // namespace reprise::arch
