// The backend interface: the coarse operations that blocks, vision towers and schemes are written
// in. Model code is written once against it and runs on every backend.
//
// Contract of every operation
//   - Value-returning: inputs are never changed (but for the KV rows that grow).
//   - Shapes are checked; a mismatch is a bug of ours and throws InternalError.
//   - On the cpu backend, a row of the result depends only on that row's inputs (and its KV row):
//     the same bits with one thread or many, alone or beside other rows, in one call or several.
//   - On a training backend every operation is differentiable in its float inputs and weights.
//
// Rejected: a graph to be built and then executed (ggml): value-returning calls let schemes read
// like the papers, let autograd work unchanged and let memory go back at the last use. Fine-grained
// operations (matmul, softmax, transpose): on a CPU the fused ones are where speed is won.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/kv.h"
#include "backend/tensor.h"

namespace reprise {

// How a weight is read, which decides the layout it is kept in.
enum class WeightUse {
  Matrix,  // [out, in]; read by linear
  Table,   // [rows, d]; read by embed, and by linear where the head is tied to the embedding
  Vector,  // norms, biases, tokens, position tables: kept as F32 and usable in any operation
};

// One low-rank adapter: y += scale * B (A x).
struct LowRank {
  Tensor a;  // [rank, in]
  Tensor b;  // [out, rank]
  float scale = 1.0f;
};

struct LinearWeight {
  Tensor weight;                  // [out, in]
  Tensor bias;                    // [out], or none
  std::vector<LowRank> adapters;  // by adapter id; one without `a` adds nothing
};

enum class Unary { Gelu, GeluTanh, QuickGelu, Silu, Sigmoid, Tanh, Relu };  // Gelu: exact (erf)
enum class NormKind { Rms, Layer };

struct NormWeight {
  NormKind kind = NormKind::Rms;
  Tensor weight;     // [d]
  Tensor bias;       // [d], LayerNorm only, or none
  float eps = 0;     // must be set from the config
  float offset = 0;  // added to weight: 1 for Gemma, whose files hold w of (1 + w)
};

struct AttentionSpec {
  int heads = 0;
  int kv_heads = 0;    // divides heads; head h reads KV head h / (heads / kv_heads)
  int k_dim = 0;       // width of q and k per head
  int v_dim = 0;       // width of v and of the result per head
  float scale = 0;     // on q.k, before the softmax
  int64_t window = 0;  // positions a query sees, its own included; 0 = all before it
  float softcap = 0;   // scores s become softcap * tanh(s / softcap); 0: they stay
};

struct BackendStats {
  int64_t weight_bytes = 0;     // bound weights held in memory or mapped
  int64_t workspace_bytes = 0;  // activations held now
  int64_t workspace_peak = 0;   // most held at any time
  int64_t kv_bytes = 0;         // KV pages held now
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu", "torch"
  virtual std::string description()
      const = 0;  // e.g. "cpu: avx512-vnni, 2 threads, int8 activations"
  virtual BackendStats stats() const = 0;

  // ---- Memory
  // Makes a weight usable. Floats may stay where they are (mapped); quantized matrices are repacked
  // and released. Throws Error when a type isn't supported.
  virtual Tensor bind(const HostTensor& source, WeightUse use) = 0;
  virtual Tensor from_host(std::span<const float> values, Shape shape) = 0;
  virtual std::vector<float> to_host(const Tensor& x) = 0;  // weights too: dequantized, row-major

  // ---- KV rows. An error of any of these leaves the rows as they were (kv/append.h).
  // One page for entries of this width, of no budget.
  virtual std::shared_ptr<KvPage> new_page(const KvSpec& spec) = 0;
  // Copies k, v of `count` entries between pages of the same width. What lies behind them in `to`
  // may change: nothing there counts yet.
  virtual void copy_entries(const KvPage& from, int64_t first, KvPage& to, int64_t at,
                            int64_t count) = 0;
  // Appends to each segment's `write` row (null: nothing) what `attention` would, and attends to
  // nothing: k [rows, heads, k_dim], v [rows, heads, v_dim] of the row. `read` isn't looked at.
  virtual void append_kv(const Tensor& k, const Tensor& v,
                         std::span<const AttentionSegment> segments) = 0;
  // Reads entries [begin, end) of a row: k [end - begin, heads, k_dim], v [end - begin, heads,
  // v_dim].
  virtual std::pair<Tensor, Tensor> read_kv(const KvRow& row, int64_t begin, int64_t end) = 0;
  // A row with the same entries, its full pages shared and its last partial page copied.
  KvRow fork(const KvRow& row);
  // Appends to `to` the entries that `from` holds at these positions (all of them, ascending), as a
  // token that left early has the last computed loop's k, v at deeper rows too. A full page that
  // lines up in both rows is shared; anything else is copied entry by entry, since attention is
  // fast because the keys of a page lie together: no page is put together from parts of others.
  void alias_kv(const KvRow& from, std::span<const int32_t> positions, KvRow& to);

  // ---- Shape: no arithmetic
  virtual Tensor reshape(const Tensor& x, Shape shape) = 0;  // shares memory
  virtual Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end) = 0;
  virtual Tensor concat(std::span<const Tensor> parts, int dim) = 0;
  // x [n, ...] -> [indices, ...]; every index in [0, n), repeats allowed.
  virtual Tensor gather_rows(const Tensor& x, std::span<const int32_t> indices) = 0;
  // A copy of x [n, ...] in which row indices[i] is rows[i]; no index twice.
  virtual Tensor replace_rows(const Tensor& x, std::span<const int32_t> indices,
                              const Tensor& rows) = 0;

  // ---- Arithmetic
  // Rows of a table: [ids, d]. Every id in [0, table rows).
  virtual Tensor embed(const Tensor& table, std::span<const int32_t> ids) = 0;
  // One result per weight: [..., in] -> [..., out_i]. The input is quantized (int8 activations)
  // once for all of them. adapter_of_row: adapter id per row, -1 for none; empty means none at all.
  virtual std::vector<Tensor> linear(const Tensor& x, std::span<const LinearWeight* const> weights,
                                     std::span<const int32_t> adapter_of_row) = 0;
  // Over the last dimension, in F32.
  virtual Tensor norm(const Tensor& x, const NormWeight& w) = 0;
  // a + scale * b. b has a's shape, or a shape that is a suffix of it (repeated over the rest).
  virtual Tensor add(const Tensor& a, const Tensor& b, float scale = 1.0f) = 0;
  // x * v with v a suffix of x's shape (layer scale), or [..., 1] per row.
  virtual Tensor mul(const Tensor& x, const Tensor& v) = 0;
  virtual Tensor scale(const Tensor& x, float factor) = 0;
  // (1 - w) a + w b, computed as a + w (b - a); w is [..., 1]: one number per row.
  virtual Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& w) = 0;
  virtual Tensor unary(const Tensor& x, Unary kind) = 0;
  // act(gate) * up: the gated part of SwiGLU and GeGLU.
  virtual Tensor glu(const Tensor& gate, const Tensor& up, Unary kind) = 0;
  // Rotates the first 2m components of every head: x [rows, heads, dim]; angles [rows, 2m] holds m
  // cosines then m sines. Pairs are (i, i + m), or (2i, 2i + 1) when interleaved.
  virtual Tensor rope(const Tensor& x, const Tensor& angles, bool interleaved) = 0;
  // Causal attention by position. q [rows, heads, k_dim], k [rows, kv_heads, k_dim],
  // v [rows, kv_heads, v_dim] -> [rows, heads, v_dim]. The segments cover all rows in order. First
  // everything is appended (append_kv), then all queries attend.
  virtual Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k,
                           const Tensor& v, std::span<const AttentionSegment> segments) = 0;
  // Attention without a mask or a cache. q [b, m, heads, dim], k [s, n, heads, dim],
  // v [s, n, heads, v_dim] -> [b, m, heads, v_dim]; q[i] attends to k[kv_of[i]]; empty kv_of: to
  // k[i].
  virtual Tensor full_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                std::span<const int32_t> kv_of = {}) = 0;
  // Cuts pictures into patches: [t, c, h, w] -> [t, (h/p)*(w/p), c*p*p], patches row by row, each
  // flattened as a convolution weight [out, c, p, p] is. Borders that fill no patch are left out.
  virtual Tensor patchify(const Tensor& pixels, int patch) = 0;

  // ---- Shorthands
  Tensor linear(const Tensor& x, const LinearWeight& w,
                std::span<const int32_t> adapter_of_row = {}) {
    const LinearWeight* const one[] = {&w};
    return std::move(linear(x, std::span<const LinearWeight* const>(one), adapter_of_row)[0]);
  }
};

}  // namespace reprise
