// The oracle: the matrix products as plain loops, for every machine and for the tests of the rest.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/cpu/kernels/matmul_tables.h"
#include "backend/cpu/memory/packing.h"
#include "base/half.h"

namespace reprise::cpu {
namespace {

constexpr int kBlock = 32;

float round_half_even(float x) {  // |x| < 2^22, in the default rounding mode
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}

void quantize(const float* x, int64_t m, int64_t k, int64_t ldx, int8_t* q, float* scale,
              int32_t* sum, int32_t* half_sum) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t b = 0; b < k / kBlock; ++b, ++scale, ++sum, half_sum += 2, q += kBlock) {
      const float* in = x + i * ldx + b * kBlock;
      float largest = 0;
      bool finite = true;
      for (int64_t j = 0; j < kBlock; ++j) {
        finite = finite && std::isfinite(in[j]);
        largest = std::max(largest, std::fabs(in[j]));
      }
      const float inverse = 127.0f / largest;
      *sum = half_sum[0] = half_sum[1] = 0;
      if (!finite || !std::isfinite(inverse)) {
        *scale = finite ? 0.0f : std::bit_cast<float>(0x7fc00000u);
        std::memset(q, 0, kBlock);
        continue;
      }
      *scale = largest / 127.0f;
      for (int64_t j = 0; j < kBlock; ++j) {
        q[j] = static_cast<int8_t>(round_half_even(in[j] * inverse));
        *sum += q[j];
        half_sum[j / 16] += q[j];
      }
    }
  }
}

void packed_int8(const QuantizedRows& x, int64_t m, const PackedMatrix& w, int64_t n0, int64_t n1,
                 float* out, int64_t ldo) {
  const int64_t blocks = w.k / kBlock;
  for (int64_t n = n0; n < n1; ++n) {
    for (int64_t i = 0; i < m; ++i) out[i * ldo + n] = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const PanelBlock weights = read_block(w, n, b);
      const int width = kBlock / weights.parts;
      for (int64_t i = 0; i < m; ++i) {
        for (int part = 0; part < weights.parts; ++part) {
          const int8_t* q = x.q + i * w.k + b * kBlock + part * width;
          int dot = 0, sum = 0;
          for (int k = 0; k < width; ++k) {
            dot += weights.level[part * width + k] * q[k];
            sum += q[k];
          }
          const auto [scale, minimum] = weights.scale[part];
          const float t = weights.has_minimum ? std::fmaf(scale, static_cast<float>(dot),
                                                          minimum * static_cast<float>(sum))
                                              : scale * static_cast<float>(dot);
          out[i * ldo + n] = std::fmaf(x.scale[i * blocks + b], t, out[i * ldo + n]);
        }
      }
    }
  }
}

void packed_f32(const float* x, int64_t m, int64_t ldx, const PackedMatrix& w, int64_t n0,
                int64_t n1, float* out, int64_t ldo) {
  for (int64_t n = n0; n < n1; ++n) {
    for (int64_t i = 0; i < m; ++i) out[i * ldo + n] = 0;
    for (int64_t b = 0; b < w.k / kBlock; ++b) {
      float value[kBlock];
      values_of(read_block(w, n, b), value);
      for (int64_t i = 0; i < m; ++i) {
        float acc = out[i * ldo + n];
        for (int64_t k = 0; k < kBlock; ++k)
          acc = std::fmaf(value[k], x[i * ldx + b * kBlock + k], acc);
        out[i * ldo + n] = acc;
      }
    }
  }
}

float dense_value(const std::byte* w, DType type, int64_t index) {
  if (type == DType::F32) {
    float value;
    std::memcpy(&value, w + 4 * index, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, w + 2 * index, 2);
  return type == DType::BF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// Sums in double: what the float sums of the other tables are measured against.
void dense_f32(const float* x, int64_t m, int64_t ldx, const std::byte* w, DType type, int64_t n0,
               int64_t n1, int64_t k, float* out, int64_t ldo) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t n = n0; n < n1; ++n) {
      double acc = 0;
      for (int64_t j = 0; j < k; ++j)
        acc += static_cast<double>(x[i * ldx + j]) *
               static_cast<double>(dense_value(w, type, n * k + j));
      out[i * ldo + n] = static_cast<float>(acc);
    }
  }
}

}  // namespace

constinit const MatmulKernels kMatmulScalar = {0, quantize, packed_int8, packed_f32, dense_f32};

}  // namespace reprise::cpu
