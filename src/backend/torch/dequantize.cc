#include "backend/torch/dequantize.h"

#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace reprise {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// One block of 32 values; layouts as in base/dtype.h.
void q8_0_block(const std::byte* block, float* out) {
  const float scale = f16_to_float(load<uint16_t>(block));
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
}

void q4_0_block(const std::byte* block, float* out) {
  const float scale = f16_to_float(load<uint16_t>(block));
  for (int i = 0; i < 16; ++i) {
    const int pair = load<uint8_t>(block + 2 + i);
    out[i] = scale * static_cast<float>((pair & 15) - 8);
    out[i + 16] = scale * static_cast<float>((pair >> 4) - 8);
  }
}

void q4_1_block(const std::byte* block, float* out) {
  const float scale = f16_to_float(load<uint16_t>(block));
  const float minimum = f16_to_float(load<uint16_t>(block + 2));
  for (int i = 0; i < 16; ++i) {
    const int pair = load<uint8_t>(block + 4 + i);
    out[i] = scale * static_cast<float>(pair & 15) + minimum;
    out[i + 16] = scale * static_cast<float>(pair >> 4) + minimum;
  }
}

}  // namespace

bool can_dequantize(DType type) {
  return is_float(type) || is_quantized(type) || type == DType::I32 || type == DType::I64;
}

void dequantize(DType type, std::span<const std::byte> bytes, int64_t begin, int64_t end,
                float* out) {
  const int64_t per_block = block_values(type);
  const int64_t size = block_bytes(type);
  REPRISE_CHECK(begin % per_block == 0 && end % per_block == 0 && begin <= end);
  REPRISE_CHECK(end / per_block * size <= static_cast<int64_t>(bytes.size()));
  const std::byte* at = bytes.data() + begin / per_block * size;
  const int64_t blocks = (end - begin) / per_block;
  switch (type) {
    case DType::F32:
      if (blocks > 0) std::memcpy(out, at, static_cast<size_t>(blocks * size));
      return;
    case DType::F16:
      for (int64_t i = 0; i < blocks; ++i) out[i] = f16_to_float(load<uint16_t>(at + 2 * i));
      return;
    case DType::BF16:
      for (int64_t i = 0; i < blocks; ++i) out[i] = bf16_to_float(load<uint16_t>(at + 2 * i));
      return;
    case DType::F64:
      for (int64_t i = 0; i < blocks; ++i) out[i] = static_cast<float>(load<double>(at + 8 * i));
      return;
    case DType::I32:
      for (int64_t i = 0; i < blocks; ++i) out[i] = static_cast<float>(load<int32_t>(at + 4 * i));
      return;
    case DType::I64:
      for (int64_t i = 0; i < blocks; ++i) out[i] = static_cast<float>(load<int64_t>(at + 8 * i));
      return;
    case DType::Q8_0:
      for (int64_t i = 0; i < blocks; ++i) q8_0_block(at + i * size, out + 32 * i);
      return;
    case DType::Q4_0:
      for (int64_t i = 0; i < blocks; ++i) q4_0_block(at + i * size, out + 32 * i);
      return;
    case DType::Q4_1:
      for (int64_t i = 0; i < blocks; ++i) q4_1_block(at + i * size, out + 32 * i);
      return;
    default:
      REPRISE_CHECK(false, "type {}", dtype_name(type));
  }
}

}  // namespace reprise
