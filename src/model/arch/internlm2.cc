// InternLM2 and 2.5: Llama with q, k, v in one matrix, grouped by KV head, under names of its own.
// Keys and defaults: InternLM2Config of the released code (transformers has no class for it).
// llama.cpp's files have the three matrices apart, their rows as Llama's, and no biases; what
// "dynamic" scaling would do beyond the context is left out.
#include "base/json.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.fused_qkv = text.grouped_qkv = true;
  text.trace_repeats_kv = false;
  text.qkv_bias = text.o_bias = read_flag(keys, "bias", /*absent=*/true);
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
}

void complete(Json& json) { json["bias"] = false; }

const NameTable& names() {
  static const NameTable table = {
      .layers = "model.layers.",
      .attention = "attention.",
      .names = {{"embed", "model.tok_embeddings"},
                {"head", "output"},
                {"final_norm", "model.norm"},
                {"attn_norm", "attention_norm"},
                {"mlp_norm", "ffn_norm"},
                {"q", "attention.wq"},  // in files of ours: "reprise": {"qkv": "separate"}
                {"k", "attention.wk"},
                {"v", "attention.wv"},
                {"qkv", "attention.wqkv"},
                {"o", "attention.wo"},
                {"gate", "feed_forward.w1"},
                {"up", "feed_forward.w3"},
                {"down", "feed_forward.w2"}}};
  return table;
}

}  // namespace

Architecture internlm2() {
  return {.name = "InternLM2ForCausalLM",
          .defaults = {.max_position = 2048},
          .rope = {},
          .gguf = {.name = "internlm2",
                   .interleaved = true,
                   .qkv = "separate",
                   .complete = complete},
          .names = &names(),
          .read = read};
}

}  // namespace reprise::arch
