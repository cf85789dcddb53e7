// GPT-NeoX and Pythia: LayerNorm, attention and MLP beside each other, biases everywhere, an MLP
// without a gate, a quarter of each head rotated. Keys and defaults: GPTNeoXConfig of transformers.
//
// query_key_value is fused by head: [heads, q k v, head_dim], which is one group a KV head as there
// are as many of those. Models of ours with "reprise": {"qkv": "separate"} have attention.query,
// .key and .value instead. llama.cpp's files hold the same rows as all q, all k, all v; its own
// code takes every GELU for the tanh form, which the models don't mean and which isn't followed
// here.
#include <fmt/format.h>

#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"

namespace reprise::arch {
namespace {

void read(const DecoderKeys& keys, TextConfig& text) {
  text.fused_qkv = text.grouped_qkv = true;
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias", /*absent=*/true);
  text.mlp_bias = true;
  text.gated_mlp = false;
  text.parallel_residual = read_flag(keys, "use_parallel_residual", /*absent=*/true);
  text.final_norm.bias = true;
  for (BlockConfig& block : text.blocks) block.norm.bias = true;
  // Neither is a key of its code, which has heads of d / heads and as many KV heads.
  if (keys.json.has("num_key_value_heads") && text.kv_heads != text.heads)
    keys.json.problem_at("num_key_value_heads",
                         fmt::format("expected num_attention_heads ({})", text.heads));
  if (keys.json.has("head_dim") && text.head_dim * text.heads != text.d)
    keys.json.problem_at(
        "head_dim",
        fmt::format("expected hidden_size / num_attention_heads ({} / {})", text.d, text.heads));
}

void to_folder(Json& json) {
  write_no_windows(json);
  for (const char* key : {"num_key_value_heads", "head_dim"}) json.erase(key);  // none of its keys
}

const NameTable& names() {
  static const NameTable table = {.layers = "gpt_neox.layers.",
                                  .attention = "attention.",
                                  .names = {{"embed", "gpt_neox.embed_in"},
                                            {"head", "embed_out"},
                                            {"final_norm", "gpt_neox.final_layer_norm"},
                                            {"attn_norm", "input_layernorm"},
                                            {"mlp_norm", "post_attention_layernorm"},
                                            {"q", "attention.query"},
                                            {"k", "attention.key"},
                                            {"v", "attention.value"},
                                            {"qkv", "attention.query_key_value"},
                                            {"o", "attention.dense"},
                                            {"up", "mlp.dense_h_to_4h"},
                                            {"down", "mlp.dense_4h_to_h"}}};
  return table;
}

}  // namespace

Architecture gpt_neox() {
  return {
      .name = "GPTNeoXForCausalLM",
      .model_type = "gpt_neox",
      .norm = NormKind::Layer,
      .defaults = {.activation = "gelu", .norm_eps = 1e-5, .max_position = 2048},
      .rope = {.theta_key = "rotary_emb_base", .partial_key = "rotary_pct", .partial = 0.25},
      .looped_apart = true,
      .gguf = {.name = "gptneox", .optional_biases = true, .qkv = "fused", .to_folder = to_folder},
      .own_flags = {"use_parallel_residual"},
      .unread = {".attention.bias", ".attention.masked_bias"},
      .names = &names(),
      .read = read};
}

}  // namespace reprise::arch
