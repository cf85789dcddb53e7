#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pad.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "backend/torch/attention_layout.h"
#include "backend/torch/autograd_ops.h"
#include "backend/torch/torch_backend.h"

namespace reprise {
namespace {

constexpr size_t kLayoutsKept = 4;

bool functional(const AttentionSegment& s) {
  return s.read == nullptr && s.write == nullptr && !s.own_entries;
}

// Each head repeated `times` times: [b, n, heads, d] -> [b, n, heads * times, d].
at::Tensor repeat_heads(const at::Tensor& x, int64_t times) {
  if (times == 1) return x;
  const int64_t b = x.size(0), n = x.size(1), heads = x.size(2), d = x.size(3);
  return x.unsqueeze(3).expand({b, n, heads, times, d}).reshape({b, n, heads * times, d});
}

// The mask of one request's queries over keys at these positions, [1, 1, queries, keys].
at::Tensor position_mask(std::span<const int32_t> queries, std::span<const int32_t> keys,
                         int64_t window) {
  const auto m = static_cast<int64_t>(queries.size());
  const auto n = static_cast<int64_t>(keys.size());
  at::Tensor mask = at::empty({1, 1, m, n}, at::kFloat);
  float* out = mask.data_ptr<float>();
  for (int32_t query : queries)
    for (int32_t key : keys) {
      const int64_t back = int64_t{query} - key;
      const bool seen = back >= 0 && (window == 0 || back < window);
      *out++ = seen ? 0.0f : -std::numeric_limits<float>::infinity();
    }
  return mask;
}

// Attention whose scores are capped (AttentionSpec::softcap), which no fused kernel offers:
// q [b, heads, m, dim], k, v [b, heads, n, ..].
at::Tensor capped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::optional<at::Tensor>& mask, bool causal, double scale,
                            double softcap) {
  at::Tensor scores = at::matmul(q, k.transpose(2, 3)).to(at::kFloat);
  scores = at::mul(at::tanh(at::mul(scores, scale / softcap)), softcap);
  if (mask) scores = at::add(scores, *mask);
  if (causal) {
    const at::Tensor later =
        at::ones({q.size(2), k.size(2)}, scores.options().dtype(at::kBool)).triu(1);
    scores = at::masked_fill(scores, later, -std::numeric_limits<double>::infinity());
  }
  return at::matmul(at::softmax(scores, -1).to(v.scalar_type()), v);
}

}  // namespace

at::Tensor TorchBackend::sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& mask, bool causal, double scale,
                              double softcap) const {
  const int64_t groups = q.size(2) / k.size(2);
  const int64_t k_dim = q.size(3), v_dim = v.size(3);
  // ATen's CPU kernel makes a oneDNN product per block of scores, which in BF16 costs more than it
  // saves: attention stays in F32 there.
  const at::ScalarType type = bf16_ && !device_.is_cpu() ? at::kBFloat16 : at::kFloat;
  // The fused kernels want one width for all three; zeros add nothing to a product.
  const auto heads_first = [&](const at::Tensor& x, int64_t repeat) {
    return repeat_heads(x.to(type), repeat).transpose(1, 2);  // [b, heads, rows, dim]
  };
  const auto prepare = [&](const at::Tensor& x, int64_t repeat) {
    const int64_t more = std::max(k_dim, v_dim) - x.size(3);
    const at::Tensor y = heads_first(x, repeat);
    return more > 0 ? at::pad(y, {0, more}) : y;
  };
  std::optional<at::Tensor> bias;
  if (mask.defined()) bias = mask.to(device_, type);
  if (softcap > 0)
    return capped_attention(heads_first(q, 1), heads_first(k, groups), heads_first(v, groups), bias,
                            causal, scale, softcap)
        .transpose(1, 2)
        .to(at::kFloat);
  at::Tensor o = at::scaled_dot_product_attention(prepare(q, 1), prepare(k, groups),
                                                  prepare(v, groups), bias, 0.0, causal, scale)
                     .transpose(1, 2)
                     .to(at::kFloat);
  return k_dim > v_dim ? o.narrow(3, 0, v_dim) : o;
}

at::Tensor TorchBackend::serving_attention(const AttentionSpec& spec, const at::Tensor& q,
                                           const at::Tensor& k, const at::Tensor& v,
                                           std::span<const AttentionSegment> segments) {
  const c10::AutoGradMode no_graph(false);  // what lies in a cache is a constant
  check_segments(segments, q.size(0));
  // Everything is appended before anything is read, so that the order of segments can't matter.
  KvAppend append(*this);
  store_kv(append, k, v, segments);
  std::vector<at::Tensor> results;
  results.reserve(segments.size());
  for (const AttentionSegment& s : segments) {
    if (s.rows == 0) continue;
    REPRISE_CHECK(s.read != nullptr || s.own_entries, "a serving segment reads no row");
    REPRISE_CHECK(s.prefix < 0, "a segment of a KV row with a prefix of the call");
    const int64_t entries = s.read == nullptr ? 0
                            : s.own_entries   ? s.read->lower_bound(s.positions[0])
                                              : s.read->filled();
    REPRISE_CHECK(s.own_entries || (entries > 0 && s.read->position(0) <= s.positions[0]),
                  "a query at position {} sees no key", s.positions[0]);
    at::Tensor keys, values;
    if (entries > 0) {
      const KvSpec& width = s.read->spec;
      REPRISE_CHECK(width.heads == spec.kv_heads && width.k_dim == spec.k_dim &&
                    width.v_dim == spec.v_dim);
      std::tie(keys, values) = kv_entries(*s.read, 0, entries);
    }
    if (s.own_entries) {
      const auto add_own = [&](at::Tensor& list, const at::Tensor& x) {
        at::Tensor own = x.narrow(0, s.first_row, s.rows);
        if (s.own_type() == DType::F16) own = own.to(at::kHalf).to(at::kFloat);
        list = list.defined() ? at::cat({list, own}, 0) : own;
      };
      add_own(keys, k);
      add_own(values, v);
    }
    // In decode every key is seen, and nobody needs to know where each of them stands.
    const int32_t lowest = entries > 0 ? s.read->position(0) : s.positions.front();
    const int32_t highest = s.own_entries ? s.positions.back() : s.read->last_position();
    at::Tensor mask;
    if (highest > s.positions.front() ||
        (spec.window > 0 && int64_t{s.positions.back()} - lowest >= spec.window)) {
      std::vector<int32_t> positions;
      for (int64_t i = 0; i < entries; ++i) positions.push_back(s.read->position(i));
      if (s.own_entries) positions.insert(positions.end(), s.positions.begin(), s.positions.end());
      mask = position_mask(s.positions, positions, spec.window);
    }
    results.push_back(sdpa(q.narrow(0, s.first_row, s.rows).unsqueeze(0), keys.unsqueeze(0),
                           values.unsqueeze(0), mask, false, spec.scale,
                           spec.softcap)
                          .squeeze(0));
  }
  append.commit();
  return at::cat(results, 0);
}

at::Tensor TorchBackend::functional_attention(const AttentionSpec& spec, const at::Tensor& q,
                                              const at::Tensor& k, const at::Tensor& v,
                                              std::span<const AttentionSegment> segments) {
  const std::vector<int32_t> key = layout_key(segments);
  std::shared_ptr<const AttentionLayout> layout;
  for (const auto& kept : layouts_)
    if (kept->window == spec.window && kept->key == key) layout = kept;
  if (layout == nullptr) {
    layout = make_attention_layout(segments, spec.window);
    if (layouts_.size() < kLayoutsKept) layouts_.resize(kLayoutsKept, layout);
    layouts_[next_layout_++ % kLayoutsKept] = layout;
  }
  REPRISE_CHECK(layout->rows == q.size(0), "segments cover {} of {} rows", layout->rows, q.size(0));

  std::vector<at::Tensor> results;
  for (const AttentionJob& job : layout->jobs) {
    const auto query_side = [&](const at::Tensor& x) {
      const at::Tensor rows = job.first_row >= 0
                                  ? x.narrow(0, job.first_row, job.batch * job.queries)
                                  : gather_rows_op(x, job.query_rows);
      return rows.reshape({job.batch, job.queries, x.size(1), x.size(2)});
    };
    const auto key_side = [&](const at::Tensor& x) {
      if (job.same_rows) return query_side(x);
      return gather_rows_op(x, job.key_rows).reshape({job.batch, job.keys, x.size(1), x.size(2)});
    };
    results.push_back(
        sdpa(query_side(q), key_side(k), key_side(v), job.mask, job.causal, spec.scale,
             spec.softcap)
            .reshape({job.batch * job.queries, spec.heads, spec.v_dim}));
  }
  at::Tensor all = results.size() == 1 ? results[0] : at::cat(results, 0);
  return layout->in_order ? all : gather_rows_op(all, layout->result_rows);
}

Tensor TorchBackend::attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k,
                               const Tensor& v, std::span<const AttentionSegment> segments) {
  const auto guard = recording();
  const int64_t rows = q.dim(0);
  REPRISE_CHECK(spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0 && spec.scale != 0);
  REPRISE_CHECK((q.shape() == Shape{rows, spec.heads, spec.k_dim}), "q {}",
                shape_string(q.shape()));
  REPRISE_CHECK((k.shape() == Shape{rows, spec.kv_heads, spec.k_dim}), "k {}",
                shape_string(k.shape()));
  REPRISE_CHECK((v.shape() == Shape{rows, spec.kv_heads, spec.v_dim}), "v {}",
                shape_string(v.shape()));
  int64_t covered = 0;
  for (const AttentionSegment& s : segments) {
    REPRISE_CHECK(s.first_row == covered && static_cast<int64_t>(s.positions.size()) == s.rows);
    REPRISE_CHECK(functional(s) == functional(segments[0]), "serving beside functional segments");
    covered += s.rows;
  }
  REPRISE_CHECK(covered == rows, "segments cover {} of {} rows", covered, rows);
  if (rows == 0) return from_host({}, {0, spec.heads, spec.v_dim});
  if (functional(segments[0]))
    return wrap(functional_attention(spec, at_of(q), at_of(k), at_of(v), segments));
  return wrap(serving_attention(spec, at_of(q), at_of(k), at_of(v), segments));
}

Tensor TorchBackend::full_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                    std::span<const int32_t> kv_of) {
  const auto guard = recording();
  REPRISE_CHECK(q.rank() == 4 && k.rank() == 4 && v.rank() == 4);
  const int64_t b = q.dim(0), m = q.dim(1), heads = q.dim(2), sources = k.dim(0);
  REPRISE_CHECK(k.dim(2) == heads && v.dim(2) == heads && k.dim(3) == q.dim(3) &&
                    v.dim(0) == sources && v.dim(1) == k.dim(1),
                "q {}, k {}, v {}", shape_string(q.shape()), shape_string(k.shape()),
                shape_string(v.shape()));
  REPRISE_CHECK(static_cast<int64_t>(kv_of.size()) == b || (kv_of.empty() && sources == b));
  if (kv_of.empty()) return wrap(sdpa(at_of(q), at_of(k), at_of(v), {}, false, scale));

  // The usual case, a fixed number of queries after each other per source, needs no copies: they
  // are one longer query.
  const int64_t each = sources > 0 ? b / sources : 0;
  bool regular = each > 0 && each * sources == b;
  for (int64_t i = 0; i < b; ++i) {
    const int32_t source = kv_of[static_cast<size_t>(i)];
    REPRISE_CHECK(source >= 0 && source < sources, "source {} of {}", source, sources);
    regular = regular && source == i / each;
  }
  if (regular)
    return wrap(sdpa(at_of(q).reshape({sources, each * m, heads, q.dim(3)}), at_of(k), at_of(v), {},
                     false, scale)
                    .reshape({b, m, heads, v.dim(3)}));
  const RowIndex index = make_row_index(kv_of, sources);
  return wrap(sdpa(at_of(q), gather_rows_op(at_of(k), index), gather_rows_op(at_of(v), index), {},
                   false, scale));
}

}  // namespace reprise
