// Everything of the cpu backend that is not a matrix product: norms, activations, rope, attention.
#pragma once

#include <cstdint>

namespace reprise::cpu {

enum class UnaryKind { Gelu, GeluTanh, QuickGelu, Silu, Sigmoid, Tanh };

// Keys and values of one KV head as attention walks over them, one page (or one dense run) at a
// time.
struct KvRun {
  const void* k;  // [count, k_dim], rows k_stride elements apart
  const void* v;  // [count, v_dim], rows v_stride elements apart
  int64_t count;
  int64_t k_stride;
  int64_t v_stride;
  bool f16;  // stored as F16, else F32
};

struct VectorKernels {
  void (*add_scaled)(const float* a, const float* b, float scale, int64_t n, float* out);
  void (*mul)(const float* a, const float* b, int64_t n, float* out);
  void (*scale)(const float* a, float factor, int64_t n, float* out);
  void (*lerp)(const float* a, const float* b, float w, int64_t n, float* out);  // a + w (b - a)
  void (*unary)(UnaryKind kind, const float* x, int64_t n, float* out);
  void (*glu)(UnaryKind kind, const float* gate, const float* up, int64_t n, float* out);
  // (weight may be null: 1; bias may be null: 0)
  void (*rms_norm)(const float* x, const float* weight, float offset, float eps, int64_t n,
                   float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out);
  void (*rope)(const float* x, const float* cos, const float* sin, int64_t m, int64_t dim,
               bool interleaved, float* out);
  // softmax(scale * q.k) v over the runs in order, for queries that see exactly the same keys:
  // q [queries, k_dim] (row stride q_stride), out [queries, v_dim] (row stride out_stride).
  // scores: scratch of queries * total keys floats.
  void (*attend)(const float* q, int64_t queries, int64_t q_stride, const KvRun* runs,
                 int64_t n_runs, int64_t k_dim, int64_t v_dim, float scale, float* scores,
                 float* out, int64_t out_stride);
};

}  // namespace reprise::cpu
