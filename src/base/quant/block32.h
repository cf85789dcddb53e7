// What the types with F16 numbers for 32 values share: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1. For their
// files only.
//   Q8_0  x = d * q          d = amax / 127,             q = round(x / d), half away from zero
//   Q4_0  x = d * (q - 8)    d = (x with amax) / -8,     q = min(15, floor(x / d + 8.5))
//   Q4_1  x = d * q + m      d = (max - min) / 15,       q = min(15, floor((x - m) / d + 0.5)),
//                            m = min
//   Q5_0, Q5_1               the same with 16 and 31 in place of 8 and 15
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

inline void check_finite(const float* x, int count = kValues) {
  for (int i = 0; i < count; ++i)
    if (!std::isfinite(x[i])) fail("value {} can't be quantized", x[i]);
}

// A block: kNumbers F16 numbers, for 5 bits the highest ones of all values as bits of a word, then
// the low halves of values 0 to 15 and, in the same bytes, of 16 to 31.
template <int kNumbers, int kBits>
void split(const std::byte* block, QuantBlock& to) {
  for (int i = 0; i < kNumbers; ++i) to.numbers[i] = load_at<uint16_t>(block + 2 * i);
  block += 2 * kNumbers;
  const auto high = kBits == 5 ? load_at<uint32_t>(block) : 0;
  split_halves(block + (kBits == 5 ? 4 : 0), kValues / 2, to.quants);
  if constexpr (kBits == 5)
    for (int i = 0; i < kValues; ++i)
      to.quants[i] = static_cast<uint8_t>(to.quants[i] | ((high >> i) & 1) << 4);
}

template <int kBits>
void store_quants(const uint8_t* q, std::byte* out) {
  if constexpr (kBits == 5) {
    uint32_t high = 0;
    for (int i = 0; i < kValues; ++i) high |= static_cast<uint32_t>(q[i] >> 4) << i;
    store_at(out, high);
    out += 4;
  }
  for (int i = 0; i < kValues / 2; ++i)
    out[i] = static_cast<std::byte>((q[i] & 15) | (q[i + kValues / 2] & 15) << 4);
}

// Around 0, with the value of the largest magnitude at the lowest quant.
template <int kBits>
void quantize_symmetric(const float* x, std::byte* out, int64_t blocks) {
  constexpr int kHalf = 1 << (kBits - 1);
  for (; blocks > 0; --blocks, x += kValues, out += 2 + 4 * kBits) {
    check_finite(x);
    float extreme = 0.0f;  // the largest magnitude with its sign; the first of equals
    for (int i = 0; i < kValues; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    const float d = extreme / static_cast<float>(-kHalf);
    const float scale = inverse(d);
    store_at(out, half_scale(d));
    uint8_t q[kValues];
    for (int i = 0; i < kValues; ++i)
      q[i] = static_cast<uint8_t>(
          std::min(2 * kHalf - 1, static_cast<int>(x[i] * scale + (kHalf + 0.5f))));
    store_quants<kBits>(q, out + 2);
  }
}

// From the smallest value up.
template <int kBits>
void quantize_from_minimum(const float* x, std::byte* out, int64_t blocks) {
  constexpr int kMost = (1 << kBits) - 1;
  for (; blocks > 0; --blocks, x += kValues, out += 4 + 4 * kBits) {
    check_finite(x);
    const auto [low, high] = std::minmax_element(x, x + kValues);
    const float min = *low;
    const float d = (*high - min) / static_cast<float>(kMost);
    const uint16_t stored_scale = half_scale(d);
    const float scale = inverse(d);
    store_at(out, stored_scale);
    store_at(out + 2, half_scale(min));
    uint8_t q[kValues];
    for (int i = 0; i < kValues; ++i)
      q[i] = static_cast<uint8_t>(std::min(kMost, static_cast<int>((x[i] - min) * scale + 0.5f)));
    store_quants<kBits>(q, out + 4);
  }
}

}  // namespace reprise::block32
