// Gemma 1: norms of (1 + weight), embeddings times sqrt(hidden_size), GeGLU, a tied head, wide
// heads. Keys and defaults: GemmaConfig of transformers 5. The scale is rounded to the type that
// states have, which is F32 here. GGUF files hold 1 + weight and scale embeddings at run time too.
#include <cmath>

#include "base/json.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  text.embed_scale = static_cast<float>(std::sqrt(static_cast<double>(text.d)));
  text.final_norm.offset = 1;
  for (BlockConfig& block : text.blocks) block.norm.offset = 1;
  // The releases say "gelu" and mean this one. hidden_activation was that key's successor for a
  // while; nothing reads it any more.
  if (text.activation == Unary::Gelu) text.activation = Unary::GeluTanh;
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
}

void to_folder(Json& json) {
  write_no_windows(json);
  json["hidden_activation"] = json["hidden_act"];  // old readers' key
}

}  // namespace

Architecture gemma() {
  return {.name = "GemmaForCausalLM",
          .model_type = "gemma",
          .defaults = {.kv_heads = 16,
                       .head_dim = 256,
                       .activation = "gelu_pytorch_tanh",
                       .max_position = 8192,
                       .tied_head = true},
          .rope = {},
          .gguf = {.name = "gemma",
                   .norm_offset_added = true,
                   .optional_biases = true,
                   .to_folder = to_folder},
          .read = read};
}

}  // namespace reprise::arch
