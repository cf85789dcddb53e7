#include "model/tensor_table.h"

#include <map>

#include "base/error.h"

namespace reprise {
namespace {

using Table = std::map<std::string, const char*>;

const Table& layer_names(TensorNames::Style style) {
  static const Table hugging_face = {{"attn_norm", "input_layernorm"},
                                     {"mlp_norm", "post_attention_layernorm"},
                                     {"q", "self_attn.q_proj"},
                                     {"k", "self_attn.k_proj"},
                                     {"v", "self_attn.v_proj"},
                                     {"qkv", "self_attn.qkv_proj"},
                                     {"o", "self_attn.o_proj"},
                                     {"gate", "mlp.gate_proj"},
                                     {"up", "mlp.up_proj"},
                                     {"gate_up", "mlp.gate_up_proj"},
                                     {"down", "mlp.down_proj"}};
  static const Table intern_lm2 = {{"attn_norm", "attention_norm"}, {"mlp_norm", "ffn_norm"},
                                   {"qkv", "attention.wqkv"},       {"o", "attention.wo"},
                                   {"gate", "feed_forward.w1"},     {"up", "feed_forward.w3"},
                                   {"down", "feed_forward.w2"}};
  static const Table gguf = {{"attn_norm", "attn_norm"},
                             {"mlp_norm", "ffn_norm"},
                             {"q", "attn_q"},
                             {"k", "attn_k"},
                             {"v", "attn_v"},
                             {"qkv", "attn_qkv"},
                             {"o", "attn_output"},
                             {"gate", "ffn_gate"},
                             {"up", "ffn_up"},
                             {"gate_up", "ffn_up"},
                             {"down", "ffn_down"}};
  if (style == TensorNames::Style::InternLm2) return intern_lm2;
  return style == TensorNames::Style::Gguf ? gguf : hugging_face;
}

const Table& top_names(TensorNames::Style style) {
  static const Table hugging_face = {
      {"embed", "model.embed_tokens"}, {"head", "lm_head"}, {"final_norm", "model.norm"}};
  static const Table intern_lm2 = {
      {"embed", "model.tok_embeddings"}, {"head", "output"}, {"final_norm", "model.norm"}};
  static const Table gguf = {
      {"embed", "token_embd"}, {"head", "output"}, {"final_norm", "output_norm"}};
  if (style == TensorNames::Style::InternLm2) return intern_lm2;
  return style == TensorNames::Style::Gguf ? gguf : hugging_face;
}

const char* find(const Table& table, const std::string& key) {
  const auto it = table.find(key);
  REPRISE_CHECK(it != table.end(), "no tensor name for '{}'", key);
  return it->second;
}

}  // namespace

std::string TensorNames::of(const std::string& key) const {
  return prefix + find(top_names(style), key);
}

std::string TensorNames::layer_prefix(int layer) const {
  return prefix + (style == Style::Gguf ? "blk." : "model.layers.") + std::to_string(layer) + ".";
}

std::string TensorNames::attention_prefix(int layer) const {
  return layer_prefix(layer) + (style == Style::InternLm2 ? "attention." : "self_attn.");
}

std::string TensorNames::of(const std::string& key, int layer) const {
  return layer_prefix(layer) + find(layer_names(style), key);
}

std::string role_name(const TensorSlot& slot) {
  switch (slot.role) {
    case Role::Embedding:
      return "embedding";
    case Role::Head:
      return "head";
    case Role::Norm:
      return "norms";
    case Role::Attention:
      return "attention";
    case Role::Mlp:
      return "mlp";
    case Role::Bias:
      return "biases";
    case Role::Vision:
      return "vision tower";
    case Role::Projector:
      return "projector";
    case Role::Gate:
      return "gates";
    case Role::Scheme:
      return slot.scheme_role;
    case Role::Adapter:
      return "adapters";
  }
  return "?";
}

}  // namespace reprise
