#include "model/tensor_table.h"

#include "base/error.h"

namespace reprise {
namespace {

const char* find(const NameTable& table, const std::string& key) {
  const auto it = table.names.find(key);
  REPRISE_CHECK(it != table.names.end(), "no tensor name for '{}'", key);
  return it->second;
}

}  // namespace

const NameTable& hugging_face_names() {
  static const NameTable table = {.layers = "model.layers.",
                                  .attention = "self_attn.",
                                  .names = {{"embed", "model.embed_tokens"},
                                            {"head", "lm_head"},
                                            {"final_norm", "model.norm"},
                                            {"attn_norm", "input_layernorm"},
                                            {"mlp_norm", "post_attention_layernorm"},
                                            {"q", "self_attn.q_proj"},
                                            {"k", "self_attn.k_proj"},
                                            {"v", "self_attn.v_proj"},
                                            {"qkv", "self_attn.qkv_proj"},
                                            {"q_norm", "self_attn.q_norm"},
                                            {"k_norm", "self_attn.k_norm"},
                                            {"o", "self_attn.o_proj"},
                                            {"gate", "mlp.gate_proj"},
                                            {"up", "mlp.up_proj"},
                                            {"gate_up", "mlp.gate_up_proj"},
                                            {"down", "mlp.down_proj"}}};
  return table;
}

const NameTable& gguf_names() {
  static const NameTable table = {.layers = "blk.",
                                  .attention = "attn.",  // of no part that llama.cpp knows
                                  .names = {{"embed", "token_embd"},
                                            {"head", "output"},
                                            {"final_norm", "output_norm"},
                                            {"attn_norm", "attn_norm"},
                                            {"mlp_norm", "ffn_norm"},
                                            {"attn_post_norm", "post_attention_norm"},
                                            {"mlp_post_norm", "post_ffw_norm"},
                                            {"q", "attn_q"},
                                            {"k", "attn_k"},
                                            {"v", "attn_v"},
                                            {"qkv", "attn_qkv"},
                                            {"q_norm", "attn_q_norm"},
                                            {"k_norm", "attn_k_norm"},
                                            {"o", "attn_output"},
                                            {"gate", "ffn_gate"},
                                            {"up", "ffn_up"},
                                            {"gate_up", "ffn_up"},
                                            {"down", "ffn_down"}}};
  return table;
}

std::string TensorNames::of(const std::string& key) const { return prefix + find(*table, key); }

std::string TensorNames::layer_prefix(int layer) const {
  if (!layers.empty()) {
    const int each = table->apart.empty() ? 1 : 2;
    return prefix + layers.at(static_cast<size_t>(each * layer)) + ".";
  }
  return prefix + table->layers + std::to_string(layer) + ".";
}

std::string TensorNames::attention_prefix(int layer) const {
  return layer_prefix(layer) + table->attention;
}

std::string TensorNames::of(const std::string& key, int layer) const {
  if (table->apart.contains(key))
    return prefix + layers.at(static_cast<size_t>(2 * layer + 1)) + "." + find(*table, key);
  return layer_prefix(layer) + find(*table, key);
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
