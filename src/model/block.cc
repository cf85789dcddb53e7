#include "model/block.h"

namespace reprise {

void Block::visit_tensors(const TextConfig& config, const TensorNames& names, int layer,
                          const TensorVisitor& visitor) {
  const int64_t d = config.d;
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_dim;
  const auto norm = [&](const char* key, NormWeight& w) {
    w.kind = NormKind::Rms;
    w.eps = config.norm_eps;
    visitor({names.of(key, layer) + ".weight", {d}, WeightUse::Vector, Role::Norm, &w.weight});
  };
  const auto matrix = [&](const char* key, LinearWeight& w, Shape shape, Role role, bool bias) {
    visitor({names.of(key, layer) + ".weight", shape, WeightUse::Matrix, role, &w.weight});
    if (bias)
      visitor({names.of(key, layer) + ".bias", {shape[0]}, WeightUse::Vector, Role::Bias, &w.bias});
  };
  norm("attn_norm", attn_norm);
  if (config.fused_qkv) {
    matrix("qkv", attn.qkv, {q_rows + 2 * kv_rows, d}, Role::Attention, config.qkv_bias);
  } else {
    matrix("q", attn.q, {q_rows, d}, Role::Attention, config.qkv_bias);
    matrix("k", attn.k, {kv_rows, d}, Role::Attention, config.qkv_bias);
    matrix("v", attn.v, {kv_rows, d}, Role::Attention, config.qkv_bias);
  }
  matrix("o", attn.o, {d, q_rows}, Role::Attention, false);
  norm("mlp_norm", mlp_norm);
  if (config.fused_gate_up) {
    matrix("gate_up", mlp.gate_up, {2 * config.ffn, d}, Role::Mlp, false);
  } else {
    matrix("gate", mlp.gate, {config.ffn, d}, Role::Mlp, false);
    matrix("up", mlp.up, {config.ffn, d}, Role::Mlp, false);
  }
  matrix("down", mlp.down, {d, config.ffn}, Role::Mlp, false);
}

std::vector<std::pair<std::string, LinearWeight*>> Block::matrices(const TextConfig& config) {
  std::vector<std::pair<std::string, LinearWeight*>> list;
  if (config.fused_qkv)
    list.push_back({"qkv", &attn.qkv});
  else
    list.insert(list.end(), {{"q", &attn.q}, {"k", &attn.k}, {"v", &attn.v}});
  list.push_back({"o", &attn.o});
  if (config.fused_gate_up)
    list.push_back({"gate_up", &mlp.gate_up});
  else
    list.insert(list.end(), {{"gate", &mlp.gate}, {"up", &mlp.up}});
  list.push_back({"down", &mlp.down});
  return list;
}

Qkv project_qkv(Backend& be, const TextConfig& config, const AttentionWeights& w,
                const VisitRows& rows, const Tensor& h) {
  const int64_t n = h.rows();
  const int64_t hd = config.head_dim;
  Qkv out;
  if (config.fused_qkv) {
    // [n, heads + 2 kv_heads, head_dim]
    const int64_t q = config.heads, k = q + config.kv_heads, v = k + config.kv_heads;
    const Tensor all = be.reshape(be.linear(h, w.qkv, rows.adapters), {n, v, hd});
    out = {be.slice(all, 1, 0, q), be.slice(all, 1, q, k), be.slice(all, 1, k, v)};
  } else {
    const LinearWeight* const weights[] = {&w.q, &w.k, &w.v};
    const std::vector<Tensor> parts = be.linear(h, weights, rows.adapters);
    out = {be.reshape(parts[0], {n, config.heads, hd}),
           be.reshape(parts[1], {n, config.kv_heads, hd}),
           be.reshape(parts[2], {n, config.kv_heads, hd})};
  }
  out.q = be.rope(out.q, rows.angles, config.rope.interleaved);
  out.k = be.rope(out.k, rows.angles, config.rope.interleaved);
  return out;
}

Tensor mlp(Backend& be, const TextConfig& config, const MlpWeights& w,
           std::span<const int32_t> adapters, const Tensor& h) {
  if (config.fused_gate_up) {
    const Tensor both = be.linear(h, w.gate_up, adapters);  // [rows, 2 ffn]
    const Tensor gated = be.glu(be.slice(both, 1, 0, config.ffn),
                                be.slice(both, 1, config.ffn, 2 * config.ffn), config.activation);
    return be.linear(gated, w.down, adapters);
  }
  const LinearWeight* const weights[] = {&w.gate, &w.up};
  const std::vector<Tensor> parts = be.linear(h, weights, adapters);
  return be.linear(be.glu(parts[0], parts[1], config.activation), w.down, adapters);
}

}  // namespace reprise
