// Everything of the cpu backend that is not a matrix product: norms, activations, rope, attention.
#pragma once

#include <cstdint>

namespace reprise::cpu {

enum class UnaryKind { Gelu, GeluTanh, QuickGelu, Silu, Sigmoid, Tanh, Relu };

// Keys are taken in blocks of at most this many, so that a block stays in the nearest cache while
// all queries of a call pass over it. A page of the KV cache holds one block.
constexpr int64_t kAttendBlock = 32;

enum class KvLayout {
  Rows,  // floats; k [count, k_dim] and v [count, v_dim], rows k_stride and v_stride elements apart
  // A page of the cache, count <= kAttendBlock, with room for kAttendBlock keys: k [k_dim,
  // kAttendBlock], component by component, so that a vector holds one component of many keys and
  // scores need no sums across lanes; v [kAttendBlock, v_dim], rows v_stride elements apart.
  PageF32,
  PageF16,
};

// Keys and values of one KV head as attention walks over them, one page or one stretch of rows at a
// time.
struct KvRun {
  const void* k;
  const void* v;
  int64_t count;
  int64_t k_stride = 0;  // Rows only
  int64_t v_stride;
  KvLayout layout = KvLayout::Rows;
};

// One query of an `attend` call: it sees keys [begin, end) of all the runs laid end to end.
struct AttendQuery {
  const float* q;  // [k_dim]
  float* out;      // [v_dim]
  int64_t begin;
  int64_t end;  // > begin
};

// Floats of scratch an `attend` call needs: queries * (span + kAttendPad) + kAttendBlock *
// max(k_dim, v_dim), where span = largest end - smallest begin.
constexpr int64_t kAttendPad = 2 * kAttendBlock;

// Element-wise kernels may work in place (out == a or out == x). Their result for one element
// doesn't depend on where in the call it stands, so callers may cut rows as they like.
struct VectorKernels {
  void (*add_scaled)(const float* a, const float* b, float scale, int64_t n, float* out);
  void (*mul)(const float* a, const float* b, int64_t n, float* out);
  void (*scale)(const float* a, float factor, int64_t n, float* out);
  void (*lerp)(const float* a, const float* b, float w, int64_t n, float* out);  // a + w (b - a)
  void (*unary)(UnaryKind kind, const float* x, int64_t n, float* out);
  void (*glu)(UnaryKind kind, const float* gate, const float* up, int64_t n, float* out);
  void (*to_f16)(const float* x, int64_t n, uint16_t* out);  // nearest, ties to even
  // One row. x * rsqrt(mean(x^2) + eps) * (weight + offset); weight may be null: 1 (then offset
  // isn't used).
  void (*rms_norm)(const float* x, const float* weight, float offset, float eps, int64_t n,
                   float* out);
  // One row. (x - mean) * rsqrt(variance + eps) * weight + bias; weight may be null: 1, bias too:
  // 0.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out);
  // One head, not in place: rotates the first 2m of dim components by m angles, copies the rest.
  void (*rope)(const float* x, const float* cos, const float* sin, int64_t m, int64_t dim,
               bool interleaved, float* out);
  // softmax(scale * q.k) v for each query over the keys it sees, scores capped first as in
  // AttentionSpec::softcap. A query's result depends only on
  // its own keys and values in order: not on the other queries of the call, nor on where runs begin
  // and end. A dot product is one sum along k_dim.
  void (*attend)(const AttendQuery* queries, int64_t n, const KvRun* runs, int64_t n_runs,
                 int64_t k_dim, int64_t v_dim, float scale, float softcap, float* scratch);
};

}  // namespace reprise::cpu
