// The oracle: plain loops, sums in double. What the fast versions are tested against, and what runs
// where there is none.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "backend/cpu/kernels/vector_tables.h"
#include "base/half.h"

namespace reprise::cpu {
namespace {

void add_scaled(const float* a, const float* b, float scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + scale * b[i];
}

void mul(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

void scale(const float* a, float factor, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * factor;
}

void lerp(const float* a, const float* b, float w, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + w * (b[i] - a[i]);
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

float activate(UnaryKind kind, float x) {
  switch (kind) {
    case UnaryKind::Gelu:
      return 0.5f * x * (1.0f + std::erf(x * (1 / std::numbers::sqrt2_v<float>)));
    case UnaryKind::GeluTanh: {  // Hendrycks & Gimpel 2016, the tanh form: sqrt(2/pi), 0.044715
      const float inner = 0.797884560802865f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + std::tanh(inner));
    }
    case UnaryKind::QuickGelu:
      return x * sigmoid(1.702f * x);
    case UnaryKind::Silu:
      return x * sigmoid(x);
    case UnaryKind::Sigmoid:
      return sigmoid(x);
    case UnaryKind::Tanh:
      return std::tanh(x);
    case UnaryKind::Relu:
      return x < 0 ? 0 : x;
  }
  return 0;
}

void unary(UnaryKind kind, const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = activate(kind, x[i]);
}

void glu(UnaryKind kind, const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = activate(kind, gate[i]) * up[i];
}

void to_f16(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = float_to_f16(x[i]);
}

void rms_norm(const float* x, const float* weight, float offset, float eps, int64_t n, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double{x[i]} * x[i];
  const float factor = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(n) + eps));
  for (int64_t i = 0; i < n; ++i) {
    const float normed = x[i] * factor;
    out[i] = weight ? normed * (weight[i] + offset) : normed;
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                float* out) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    const float normed = static_cast<float>((x[i] - mean) * factor);
    out[i] = (weight ? normed * weight[i] : normed) + (bias ? bias[i] : 0.0f);
  }
}

void rope(const float* x, const float* cos, const float* sin, int64_t m, int64_t dim,
          bool interleaved, float* out) {
  for (int64_t i = 0; i < m; ++i) {
    const int64_t first = interleaved ? 2 * i : i;
    const int64_t second = interleaved ? 2 * i + 1 : i + m;
    out[first] = x[first] * cos[i] - x[second] * sin[i];
    out[second] = x[second] * cos[i] + x[first] * sin[i];
  }
  std::copy(x + 2 * m, x + dim, out + 2 * m);
}

float element(const KvRun& run, const void* base, int64_t at) {
  return run.layout == KvLayout::PageF16 ? f16_to_float(static_cast<const uint16_t*>(base)[at])
                                         : static_cast<const float*>(base)[at];
}
float key_element(const KvRun& run, int64_t key, int64_t d) {
  const bool rows = run.layout == KvLayout::Rows;
  return element(run, run.k, rows ? key * run.k_stride + d : d * kAttendBlock + key);
}
float value_element(const KvRun& run, int64_t key, int64_t d) {
  return element(run, run.v, key * run.v_stride + d);
}

// Calls visit(key, run, index in the run) for the keys in [begin, end), in order.
template <class Visit>
void for_keys(const KvRun* runs, int64_t n_runs, int64_t begin, int64_t end, const Visit& visit) {
  int64_t base = 0;
  for (int64_t r = 0; r < n_runs; base += runs[r++].count) {
    const int64_t last = std::min(end, base + runs[r].count);
    for (int64_t key = std::max(begin, base); key < last; ++key) visit(key, runs[r], key - base);
  }
}

void attend(const AttendQuery* queries, int64_t n, const KvRun* runs, int64_t n_runs, int64_t k_dim,
            int64_t v_dim, float scale, float softcap, float* scores) {
  for (const AttendQuery* query = queries; query < queries + n; ++query) {
    float largest = -INFINITY;
    for_keys(runs, n_runs, query->begin, query->end, [&](int64_t key, const KvRun& run, int64_t i) {
      double dot = 0;
      for (int64_t d = 0; d < k_dim; ++d) dot += double{query->q[d]} * key_element(run, i, d);
      float score = static_cast<float>(dot) * scale;
      if (softcap > 0) score = softcap * std::tanh(score / softcap);
      scores[key - query->begin] = score;
      largest = std::max(largest, score);
    });
    double sum = 0;
    for (int64_t i = 0; i < query->end - query->begin; ++i) {
      scores[i] = std::exp(scores[i] - largest);
      sum += scores[i];
    }
    for (int64_t d = 0; d < v_dim; ++d) {
      double total = 0;
      for_keys(runs, n_runs, query->begin, query->end,
               [&](int64_t key, const KvRun& run, int64_t i) {
                 total += double{scores[key - query->begin]} * value_element(run, i, d);
               });
      query->out[d] = static_cast<float>(total / sum);
    }
  }
}

}  // namespace

constinit const VectorKernels kVectorScalar = {.add_scaled = add_scaled,
                                               .mul = mul,
                                               .scale = scale,
                                               .lerp = lerp,
                                               .unary = unary,
                                               .glu = glu,
                                               .to_f16 = to_f16,
                                               .rms_norm = rms_norm,
                                               .layer_norm = layer_norm,
                                               .rope = rope,
                                               .attend = attend};

}  // namespace reprise::cpu
