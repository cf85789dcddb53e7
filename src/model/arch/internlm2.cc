// InternLM2 and 2.5: Llama with q, k, v in one matrix, grouped by KV head, under names of its own.
// Keys and defaults: InternLM2Config of the released code (transformers has no class for it).
// llama.cpp's files have q, k and v apart, their rows as Llama's, which is what a folder made of one is;
// what "dynamic" scaling would do beyond the context is left out.
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

void complete(Json& json) {
  json["bias"] = json["attention_bias"];
  json.erase("attention_bias");
}

void to_folder(Json& json) {
  json["attention_bias"] = json["bias"];
  json.erase("bias");
  json["architectures"] = {"LlamaForCausalLM"};
  write_llama_windows(json);
}

}  // namespace

Architecture internlm2() {
  return {.name = "InternLM2ForCausalLM",
          .model_type = "internlm2",
          .defaults = {.max_position = 2048},
          .rope = {},
          .gguf = {.name = "internlm2",
                   .interleaved = true,
                   .optional_biases = true,
                   .qkv = "separate",
                   .complete = complete,
                   .to_folder = to_folder},
          .names = &names(),
          .read = read};
}

}  // namespace reprise::arch
