#include "model/block.h"

#include <cmath>

#include "base/error.h"
#include "formats/tensor_view.h"
#include "model/scheme.h"

namespace reprise {

void set_norm(NormWeight& norm, const NormConfig& config) {
  norm.kind = config.kind;
  norm.eps = config.eps;
  norm.offset = config.offset;
}

void visit_norm(const std::string& name, const NormConfig& config, int64_t width, NormWeight& norm,
                const TensorVisitor& visitor) {
  if (config.unit) return;
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
    if (!block.norm.unit) visit_norm(names.of(key, layer), block.norm, width, w, visitor);
  };
  const auto matrix = [&](const char* key, LinearWeight& w, Shape shape, Role role, bool bias) {
    const std::string name = names.of(key, layer) + names.matrix_suffix;
    visitor({.name = name + ".weight",
             .shape = shape,
             .use = WeightUse::Matrix,
             .role = role,
             .tensor = &w.weight,
             .key = key,
             .layer = layer});
    if (bias)
      visitor({.name = name + ".bias",
               .shape = {shape[0]},
               .use = WeightUse::Vector,
               .role = Role::Bias,
               .tensor = &w.bias,
               .key = key,
               .layer = layer});
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
  const auto scale = [&](const char* key, Tensor& w, int64_t width) {
    if (config.ngpt) visitor({names.of(key, layer), {width}, WeightUse::Vector, Role::Norm, &w});
  };
  const int64_t heads = int64_t{config.heads} * config.head_dim;
  if (config.ngpt) attention("g", ngpt.g, false);
  scale("qk_scale", ngpt.qk_scale, heads);
  scale("gate_scale", ngpt.gate_scale, heads);
  scale("attn_alpha", ngpt.attn_alpha, d);
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
  scale("mlp_gate_scale", ngpt.mlp_gate_scale, config.ffn);
  scale("mlp_up_scale", ngpt.mlp_up_scale, config.ffn);
  scale("mlp_alpha", ngpt.mlp_alpha, d);
  if (block.post_norm != PostNorm::None) norm("mlp_post_norm", mlp_post_norm, d);
}

void Block::set_norms(const NormConfig& config) {
  for (NormWeight* norm :
       {&attn_norm, &attn.q_norm, &attn.k_norm, &attn_post_norm, &mlp_norm, &mlp_post_norm})
    set_norm(*norm, config);
}

void bind_unit_norm(Backend& be, const NormConfig& config, int64_t width, NormWeight& norm) {
  const auto n = static_cast<float>(width);
  const std::vector<float> values(static_cast<size_t>(width), 1 / std::sqrt(n));
  const TensorView view = make_view("", {width}, values);
  norm.weight = be.bind({view.type, view.shape, view.data, view.owner, {}}, WeightUse::Vector);
  norm.eps = config.eps / n;
}

void Block::bind_unit_norms(Backend& be, const TextConfig& config) {
  const NormConfig& norm = config.final_norm;
  if (!config.ngpt) return;
  const int64_t heads = int64_t{config.heads} * config.head_dim;
  bind_unit_norm(be, norm, config.d, attn_norm);
  bind_unit_norm(be, norm, config.d, mlp_norm);
  bind_unit_norm(be, norm, config.head_dim, attn.q_norm);
  bind_unit_norm(be, norm, config.head_dim, attn.k_norm);
  bind_unit_norm(be, norm, heads, ngpt.mixed);
  bind_unit_norm(be, norm, config.ffn, ngpt.inner);
}

std::vector<std::pair<std::string, LinearWeight*>> Block::matrices(const TextConfig& config) {
  std::vector<std::pair<std::string, LinearWeight*>> list;
  if (config.fused_qkv)
    list.push_back({"qkv", &attn.qkv});
  else
    list.insert(list.end(), {{"q", &attn.q}, {"k", &attn.k}, {"v", &attn.v}});
  if (config.ngpt) list.push_back({"g", &ngpt.g});
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
  if (key == "q" || key == "g") return {q, d};
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
  if (block.qk_norm || config.ngpt) {
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
  if (block.rope == kNoRope) return out;
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

// x + |alpha| (to - x), alpha [d] as stored.
Tensor move_towards(Backend& be, const NgptConfig& config, const Tensor& x, const Tensor& to,
                    const Tensor& alpha) {
  const Tensor size =
      be.add(be.unary(alpha, Unary::Relu), be.unary(be.scale(alpha, -1), Unary::Relu));
  return be.add(x, be.mul(be.add(to, x, -1), be.scale(size, config.alpha / config.range)));
}

// What follows attention in nGPT's blocks: in [rows, d] is the state at length 1.
Tensor behind_ngpt_attention(Backend& be, const TextConfig& config, const Block& block,
                             const VisitRows& rows, std::span<const int32_t> adapters,
                             const Tensor& in, Tensor mixed) {
  const NgptWeights& w = block.ngpt;
  const float d = std::sqrt(static_cast<float>(config.d)), range = config.ngpt->range;
  const Tensor gate = be.mul(be.linear(in, w.g, adapters),
                             be.scale(be.mul(w.gate_scale, w.gate_scale), d / (range * range)));
  mixed = be.norm(be.mul(mixed, be.unary(gate, Unary::Sigmoid)), w.mixed);
  const Tensor attention = be.norm(be.linear(mixed, block.attn.o, adapters), block.attn_norm);
  if (rows.all_active) rows.watch.value("attn", attention);
  const Tensor h =
      be.norm(move_towards(be, *config.ngpt, in, attention, w.attn_alpha), block.mlp_norm);
  const LinearWeight* const matrices[] = {&block.mlp.gate, &block.mlp.up};
  const std::vector<Tensor> parts = be.linear(h, matrices, adapters);
  Tensor inner = be.glu(be.mul(parts[0], be.scale(w.mlp_gate_scale, d)),
                        be.mul(parts[1], be.scale(w.mlp_up_scale, d)), config.activation);
  inner = be.norm(inner, w.inner);
  if (rows.all_active) {
    rows.watch.input("o_in", mixed);
    rows.watch.input("mlp_in", h);
    rows.watch.input("down_in", inner);
  }
  const Tensor mlp = be.norm(be.linear(inner, block.mlp.down, adapters), block.mlp_norm);
  return move_towards(be, *config.ngpt, h, mlp, w.mlp_alpha);
}

}  // namespace

Tensor run_block(Backend& be, const TextConfig& config, const Scheme& scheme, int index,
                 const Block& block, const VisitRows& rows, const Tensor& x) {
  const Tensor attn_in = be.norm(x, block.attn_norm);
  Qkv qkv = project_qkv(be, config, index, block.attn, rows, attn_in);
  if (config.ngpt) {
    const float range = config.ngpt->range, hd = static_cast<float>(config.head_dim);
    const Tensor& s = block.ngpt.qk_scale;
    qkv.q = be.mul(qkv.q, be.reshape(be.scale(be.mul(s, s), hd / (range * range)),
                                     {config.heads, config.head_dim}));
  }
  Tensor mixed = attend(be, config, scheme, index, rows, qkv);
  Tensor in = config.ngpt ? attn_in : x;
  std::span<const int32_t> adapters = rows.adapters;
  std::vector<int32_t> of_active;
  if (!rows.all_active) {
    if (rows.active.empty()) return x;
    mixed = be.gather_rows(mixed, rows.active);
    in = be.gather_rows(in, rows.active);
    if (!adapters.empty()) {
      for (const int32_t row : rows.active) of_active.push_back(adapters[static_cast<size_t>(row)]);
      adapters = of_active;
    }
  }
  if (config.ngpt) {
    const Tensor out = behind_ngpt_attention(be, config, block, rows, adapters, in, mixed);
    return rows.all_active ? out : be.replace_rows(x, rows.active, out);
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
