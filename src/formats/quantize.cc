#include "formats/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace reprise {
namespace {

constexpr int64_t kBlock = 32;

template <class T>
T load(const std::byte* bytes, int64_t index = 0) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void store(std::byte* bytes, T value) {
  std::memcpy(bytes, &value, sizeof(T));
}

template <class T>
void convert_plain(const std::byte* bytes, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load<T>(bytes, i));
}

float low_nibble(std::byte b) {
  return static_cast<float>(std::to_integer<int>(b & std::byte{15}));
}
float high_nibble(std::byte b) { return static_cast<float>(std::to_integer<int>(b >> 4)); }

// The scale as it is stored.
uint16_t store_scale(float scale) {
  const uint16_t half = float_to_f16(scale);
  if ((half & 0x7c00u) == 0x7c00u)
    fail("a block holds values that are not finite, or too large for an f16 scale ({})", scale);
  return half;
}

// 1 / d, and 0 where d is 0 or so small that every value of the block is stored as 0 anyway.
float inverse(float d) {
  const float value = d != 0.0f ? 1.0f / d : 0.0f;
  return std::isfinite(value) ? value : 0.0f;
}

void check_finite(const float* x) {
  for (int64_t i = 0; i < kBlock; ++i)
    if (!std::isfinite(x[i])) fail("value {} can't be quantized", x[i]);
}

// Value j of the block in the low half of byte j, value j + 16 in its high half.
template <class Quantize>
void store_nibbles(const float* x, std::byte* out, Quantize quantize) {
  for (int64_t j = 0; j < kBlock / 2; ++j)
    out[j] = static_cast<std::byte>(quantize(x[j]) | (quantize(x[j + kBlock / 2]) << 4));
}

}  // namespace

void dequantize_row(DType type, const std::byte* bytes, float* out, int64_t n) {
  REPRISE_CHECK(n % block_values(type) == 0);
  switch (type) {
    case DType::F32:
      if (n > 0) std::memcpy(out, bytes, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_float(load<uint16_t>(bytes, i));
      return;
    case DType::BF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(load<uint16_t>(bytes, i));
      return;
    case DType::F64:
      return convert_plain<double>(bytes, out, n);
    case DType::I8:
      return convert_plain<int8_t>(bytes, out, n);
    case DType::I16:
      return convert_plain<int16_t>(bytes, out, n);
    case DType::I32:
      return convert_plain<int32_t>(bytes, out, n);
    case DType::I64:
      return convert_plain<int64_t>(bytes, out, n);
    case DType::U8:
      return convert_plain<uint8_t>(bytes, out, n);
    case DType::Bool:
      for (int64_t i = 0; i < n; ++i) out[i] = bytes[i] != std::byte{0} ? 1.0f : 0.0f;
      return;
    case DType::Q8_0:
      for (; n > 0; n -= kBlock, bytes += 34, out += kBlock) {
        const float d = f16_to_float(load<uint16_t>(bytes));
        for (int64_t i = 0; i < kBlock; ++i)
          out[i] = d * static_cast<float>(static_cast<int8_t>(bytes[2 + i]));
      }
      return;
    case DType::Q4_0:
      for (; n > 0; n -= kBlock, bytes += 18, out += kBlock) {
        const float d = f16_to_float(load<uint16_t>(bytes));
        for (int64_t j = 0; j < kBlock / 2; ++j) {
          out[j] = d * (low_nibble(bytes[2 + j]) - 8.0f);
          out[j + kBlock / 2] = d * (high_nibble(bytes[2 + j]) - 8.0f);
        }
      }
      return;
    case DType::Q4_1:
      for (; n > 0; n -= kBlock, bytes += 20, out += kBlock) {
        const float d = f16_to_float(load<uint16_t>(bytes));
        const float m = f16_to_float(load<uint16_t>(bytes, 1));
        for (int64_t j = 0; j < kBlock / 2; ++j) {
          out[j] = d * low_nibble(bytes[4 + j]) + m;
          out[j + kBlock / 2] = d * high_nibble(bytes[4 + j]) + m;
        }
      }
      return;
  }
}

void quantize_row_q8_0(const float* x, std::byte* out, int64_t n) {
  REPRISE_CHECK(n % kBlock == 0);
  for (; n > 0; n -= kBlock, x += kBlock, out += 34) {
    check_finite(x);
    float amax = 0.0f;
    for (int64_t i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float d = amax / 127.0f;
    const float scale = inverse(d);
    store(out, store_scale(d));
    for (int64_t i = 0; i < kBlock; ++i)
      out[2 + i] = static_cast<std::byte>(static_cast<int>(std::round(x[i] * scale)));
  }
}

void quantize_row_q4_0(const float* x, std::byte* out, int64_t n) {
  REPRISE_CHECK(n % kBlock == 0);
  for (; n > 0; n -= kBlock, x += kBlock, out += 18) {
    check_finite(x);
    float extreme =
        0.0f;  // the value with the largest magnitude, with its sign; the first of equals
    for (int64_t i = 0; i < kBlock; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    const float d = extreme / -8.0f;
    const float scale = inverse(d);
    store(out, store_scale(d));
    store_nibbles(x, out + 2,
                  [&](float v) { return std::min(15, static_cast<int>(v * scale + 8.5f)); });
  }
}

void quantize_row_q4_1(const float* x, std::byte* out, int64_t n) {
  REPRISE_CHECK(n % kBlock == 0);
  for (; n > 0; n -= kBlock, x += kBlock, out += 20) {
    check_finite(x);
    const auto [low, high] = std::minmax_element(x, x + kBlock);
    const float min = *low;
    const float d = (*high - min) / 15.0f;
    const uint16_t stored_scale = store_scale(d);
    const float scale = inverse(d);
    store(out, stored_scale);
    store(out + 2, store_scale(min));
    store_nibbles(x, out + 4, [&](float v) {
      return std::min(15, static_cast<int>((v - min) * scale + 0.5f));
    });
  }
}

void quantize_row(DType type, const float* x, std::byte* out, int64_t n) {
  switch (type) {
    case DType::F32:
      if (n > 0) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t half = float_to_f16(x[i]);
        if ((half & 0x7fffu) == 0x7c00u && std::isfinite(x[i]))
          fail("value {} is beyond the range of F16 (65504)", x[i]);
        store(out + 2 * i, half);
      }
      return;
    case DType::BF16:
      for (int64_t i = 0; i < n; ++i) store(out + 2 * i, float_to_bf16(x[i]));
      return;
    case DType::Q8_0:
      return quantize_row_q8_0(x, out, n);
    case DType::Q4_0:
      return quantize_row_q4_0(x, out, n);
    case DType::Q4_1:
      return quantize_row_q4_1(x, out, n);
    default:
      fail("floats can't be written as {}", dtype_name(type));
  }
}

}  // namespace reprise
