#include "model/block.h"

#include "base/error.h"
#include "model/scheme.h"

namespace reprise {

void set_norm(NormWeight& norm, const NormConfig& config) {
  norm.kind = config.kind;
  norm.eps = config.eps;
  norm.offset = config.offset;
}

void visit_norm(const std::string& name, const NormConfig& config, int64_t width, NormWeight& norm,
                const TensorVisitor& visitor) {
  visitor({.name = name + ".weight",
           .shape = {width},
           .use = WeightUse::Vector,
           .role = Role::Norm,
           .tensor = &norm.weight,
           .offset = config.offset});
  if (config.bias) visitor({name + ".bias", {width}, WeightUse::Vector, Role::Bias, &norm.bias});
}

void Block::visit_tensors(const TextConfig& config, const TensorNames& names, int layer,
                          const TensorVisitor& visitor) {
  const int64_t d = config.d;
  const BlockConfig& block = config.blocks[static_cast<size_t>(layer)];
  const auto norm = [&](const char* key, NormWeight& w, int64_t width) {
    visit_norm(names.of(key, layer), block.norm, width, w, visitor);
  };
  const auto matrix = [&](const char* key, LinearWeight& w, Shape shape, Role role, bool bias) {
    const std::string name = names.of(key, layer) + names.matrix_suffix;
    visitor({name + ".weight", shape, WeightUse::Matrix, role, &w.weight});
    if (bias) visitor({name + ".bias", {shape[0]}, WeightUse::Vector, Role::Bias, &w.bias});
  };
  const auto attention = [&](const char* key, LinearWeight& w, bool bias) {
    const auto [out, in] = matrix_shape(config, key);
    matrix(key, w, {out, in}, Role::Attention, bias);
  };
  const auto mlp_matrix = [&](const char* key, LinearWeight& w) {
    const auto [out, in] = matrix_shape(config, key);
    matrix(key, w, {out, in}, Role::Mlp, config.mlp_bias);
  };
  norm("attn_norm", attn_norm, d);
  if (config.fused_qkv) {
    attention("qkv", attn.qkv, config.qkv_bias);
  } else {
    attention("q", attn.q, config.qkv_bias);
    attention("k", attn.k, config.qkv_bias);
    attention("v", attn.v, config.qkv_bias);
  }
  if (block.qk_norm) {
    norm("q_norm", attn.q_norm, config.head_dim);
    norm("k_norm", attn.k_norm, config.head_dim);
  }
  if (block.qk_bias)
    visitor({names.of("qk_bias", layer),
             {2, 1, config.heads, config.head_dim},
             WeightUse::Vector,
             Role::Bias,
             &attn.qk_bias});
  attention("o", attn.o, config.o_bias);
  if (block.post_norm != PostNorm::None) norm("attn_post_norm", attn_post_norm, d);
  norm("mlp_norm", mlp_norm, d);
  if (config.fused_gate_up) {
    mlp_matrix("gate_up", mlp.gate_up);
  } else {
    if (config.gated_mlp) mlp_matrix("gate", mlp.gate);
    mlp_matrix("up", mlp.up);
  }
  mlp_matrix("down", mlp.down);
  if (block.post_norm != PostNorm::None) norm("mlp_post_norm", mlp_post_norm, d);
}

void Block::set_norms(const NormConfig& config) {
  for (NormWeight* norm :
       {&attn_norm, &attn.q_norm, &attn.k_norm, &attn_post_norm, &mlp_norm, &mlp_post_norm})
    set_norm(*norm, config);
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
  else if (config.gated_mlp)
    list.insert(list.end(), {{"gate", &mlp.gate}, {"up", &mlp.up}});
  else
    list.push_back({"up", &mlp.up});
  list.push_back({"down", &mlp.down});
  return list;
}

std::pair<int64_t, int64_t> matrix_shape(const TextConfig& config, const std::string& key) {
  const int64_t d = config.d, ffn = config.ffn;
  const int64_t q = int64_t{config.heads} * config.head_dim;
  const int64_t kv = int64_t{config.kv_heads} * config.head_dim;
  if (key == "q") return {q, d};
  if (key == "k" || key == "v") return {kv, d};
  if (key == "qkv") return {q + 2 * kv, d};
  if (key == "o") return {d, q};
  if (key == "gate" || key == "up") return {ffn, d};
  if (key == "gate_up") return {2 * ffn, d};
  REPRISE_CHECK(key == "down", "{}", key);
  return {d, ffn};
}

Qkv project_qkv(Backend& be, const TextConfig& config, int index, const AttentionWeights& w,
                const VisitRows& rows, const Tensor& h) {
  const int64_t n = h.rows();
  const int64_t hd = config.head_dim;
  Qkv out;
  if (config.grouped_qkv) {
    const int64_t kv = config.kv_heads, group = config.heads / kv;
    const Tensor all =  // by KV head: its query heads, k, v
        be.reshape(be.linear(h, w.qkv, rows.adapters), {n, kv, group + 2, hd});
    out = {be.reshape(be.slice(all, 2, 0, group), {n, config.heads, hd}),
           be.reshape(be.slice(all, 2, group, group + 1), {n, kv, hd}),
           be.reshape(be.slice(all, 2, group + 1, group + 2), {n, kv, hd})};
  } else if (config.fused_qkv) {
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
  const BlockConfig& block = config.blocks[static_cast<size_t>(index)];
  if (block.qk_norm) {
    out.q = be.norm(out.q, w.q_norm);
    out.k = be.norm(out.k, w.k_norm);
  }
  if (block.qk_bias) {
    const auto bias = [&](int64_t of) {
      return be.reshape(be.slice(w.qk_bias, 0, of, of + 1), {config.heads, hd});
    };
    out.q = be.add(out.q, bias(0));
    out.k = be.add(out.k, bias(1));
  }
  const bool interleaved = config.ropes[static_cast<size_t>(block.rope)].interleaved;
  out.q = be.rope(out.q, rows.angles, interleaved);
  out.k = be.rope(out.k, rows.angles, interleaved);
  return out;
}

Tensor mlp_inner(Backend& be, const TextConfig& config, const MlpWeights& w,
                 std::span<const int32_t> adapters, const Tensor& h) {
  if (!config.gated_mlp) return be.unary(be.linear(h, w.up, adapters), config.activation);
  if (config.fused_gate_up) {
    const Tensor both = be.linear(h, w.gate_up, adapters);  // [rows, 2 ffn]
    return be.glu(be.slice(both, 1, 0, config.ffn), be.slice(both, 1, config.ffn, 2 * config.ffn),
                  config.activation);
  }
  const LinearWeight* const weights[] = {&w.gate, &w.up};
  const std::vector<Tensor> parts = be.linear(h, weights, adapters);
  return be.glu(parts[0], parts[1], config.activation);
}

namespace {

// Attention between the projections: [attending, heads * head_dim].
Tensor attend(Backend& be, const TextConfig& config, const Scheme& scheme, int index,
              const VisitRows& rows, const Qkv& qkv) {
  const int64_t n = qkv.q.dim(0), attending = rows.attending;
  const Qkv wide = scheme.widen(be, index, rows, qkv);
  const AttentionSpec spec = scheme.attention_spec(index);
  Tensor both;
  if (attending == n) {
    both = be.attention(spec, wide.q, wide.k, wide.v, rows.attention);
  } else {
    std::vector<AttentionSegment> attend, append;
    for (const AttentionSegment& segment : rows.attention) {
      (segment.first_row < attending ? attend : append).push_back(segment);
      if (segment.first_row >= attending) append.back().first_row -= attending;
    }
    be.append_kv(be.slice(wide.k, 0, attending, n), be.slice(wide.v, 0, attending, n), append);
    if (attending == 0) return {};
    both = be.attention(spec, be.slice(wide.q, 0, 0, attending), be.slice(wide.k, 0, 0, attending),
                        be.slice(wide.v, 0, 0, attending), attend);
  }
  return be.reshape(scheme.narrow(be, index, rows, qkv, wide, both),
                    {attending, int64_t{config.heads} * config.head_dim});
}

}  // namespace

Tensor run_block(Backend& be, const TextConfig& config, const Scheme& scheme, int index,
                 const Block& block, const VisitRows& rows, const Tensor& x) {
  const Tensor attn_in = be.norm(x, block.attn_norm);
  const Qkv qkv = project_qkv(be, config, index, block.attn, rows, attn_in);
  Tensor mixed = attend(be, config, scheme, index, rows, qkv);
  Tensor in = x;
  std::span<const int32_t> adapters = rows.adapters;
  std::vector<int32_t> of_active;
  if (!rows.all_active) {
    if (rows.active.empty()) return x;
    mixed = be.gather_rows(mixed, rows.active);
    in = be.gather_rows(x, rows.active);
    if (!adapters.empty()) {
      for (const int32_t row : rows.active) of_active.push_back(adapters[static_cast<size_t>(row)]);
      adapters = of_active;
    }
  }
  const PostNorm post_norm = config.blocks[static_cast<size_t>(index)].post_norm;
  const auto added = [&](const Tensor& branch, const NormWeight& norm) {
    return post_norm == PostNorm::Branch ? be.norm(branch, norm) : branch;
  };
  const auto sum = [&](const Tensor& x, const Tensor& branch, const NormWeight& norm) {
    const Tensor sum = be.add(x, branch);
    return post_norm == PostNorm::State ? be.norm(sum, norm) : sum;
  };
  const Tensor attention = added(be.linear(mixed, block.attn.o, adapters), block.attn_post_norm);
  if (rows.all_active) rows.watch.value("attn", attention);
  const Tensor h = sum(in, attention, block.attn_post_norm);
  const Tensor normed = be.norm(config.parallel_residual ? in : h, block.mlp_norm);
  const Tensor inner = mlp_inner(be, config, block.mlp, adapters, normed);
  if (rows.all_active) {
    rows.watch.input("attn_in", attn_in);
    rows.watch.input("o_in", mixed);
    rows.watch.input("mlp_in", normed);
    rows.watch.input("down_in", inner);
  }
  const Tensor out = sum(h, added(be.linear(inner, block.mlp.down, adapters), block.mlp_post_norm),
                         block.mlp_post_norm);
  return rows.all_active ? out : be.replace_rows(x, rows.active, out);
}

}  // namespace reprise
