// What the types with one scale for 32 values share: Q8_0, Q4_0, Q4_1. For their files only.
//   Q8_0  x = d * q           d = amax / 127,           q = round(x / d), half away from zero
//   Q4_0  x = d * (q - 8)     d = (x with amax) / -8,   q = min(15, floor(x / d + 8.5))
//   Q4_1  x = d * q + m       d = (max - min) / 15,     q = min(15, floor((x - m) / d + 0.5)),
//                             m = min
// d and m are stored as F16, while q is computed with the unrounded ones; amax is the largest
// magnitude of the block.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"
#include "base/quant/type.h"

namespace reprise::block32 {

constexpr int kValues = 32;

inline float load_scale(const std::byte* from) { return f16_to_float(load_at<uint16_t>(from)); }

// The scale as it is stored.
inline uint16_t half_scale(float scale) {
  const uint16_t half = float_to_f16(scale);
  if ((half & 0x7c00u) == 0x7c00u)
    fail("a block holds values that are not finite, or too large for an f16 scale ({})", scale);
  return half;
}

// 1 / d, and 0 where d is 0 or so small that every value of the block is stored as 0 anyway.
inline float inverse(float d) {
  const float value = d != 0.0f ? 1.0f / d : 0.0f;
  return std::isfinite(value) ? value : 0.0f;
}

inline void check_finite(const float* x) {
  for (int i = 0; i < kValues; ++i)
    if (!std::isfinite(x[i])) fail("value {} can't be quantized", x[i]);
}

// Byte j holds value j in its low half and value j + 16 in its high half; `offset` is taken off.
inline void load_nibbles(const std::byte* from, int offset, int8_t* q) {
  for (int j = 0; j < kValues / 2; ++j) {
    const int byte = std::to_integer<int>(from[j]);
    q[j] = static_cast<int8_t>((byte & 15) - offset);
    q[j + kValues / 2] = static_cast<int8_t>((byte >> 4) - offset);
  }
}
template <class Quantize>
void store_nibbles(const float* x, std::byte* out, Quantize quantize) {
  for (int j = 0; j < kValues / 2; ++j)
    out[j] = static_cast<std::byte>(quantize(x[j]) | (quantize(x[j + kValues / 2]) << 4));
}

// Dequantizes by way of the integers.
template <QuantIntegers (*kSplit)(const std::byte*), bool kMinimum>
void dequantize(const std::byte* block, float* out) {
  const QuantIntegers parts = kSplit(block);
  for (int i = 0; i < kValues; ++i) {
    out[i] = parts.scale * static_cast<float>(parts.q[i]);
    if constexpr (kMinimum) out[i] += parts.minimum;
  }
}

}  // namespace reprise::block32
