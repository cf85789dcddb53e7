#include "base/quant/rows.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "base/quant/type.h"

namespace reprise {
namespace {

template <class T>
void convert_plain(const std::byte* bytes, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<float>(load_at<T>(bytes + i * static_cast<int64_t>(sizeof(T))));
}

void dequantize_blocks(DType type, const std::byte* from, float* out, int64_t blocks) {
  const QuantLayout& layout = quant_layout(type);
  const auto split = quant_code(type).split;
  const int step = code_bytes(layout.code);
  QuantBlock block;
  for (; blocks > 0; --blocks, from += layout.bytes) {
    split(from, block);
    for (int part = 0; part < layout.values / layout.part; ++part, out += layout.part) {
      const auto [scale, minimum] = part_scale(layout, block.numbers, block.codes + part * step);
      const uint8_t* q = block.quants + part * layout.part;
      for (int i = 0; i < layout.part; ++i)
        out[i] = scale * static_cast<float>(quant_level(layout, q[i]));
      if (layout.numbers > 1)
        for (int i = 0; i < layout.part; ++i) out[i] += minimum;
    }
  }
}

}  // namespace

const QuantCode& quant_code(DType type) {
  switch (type) {
#define REPRISE_QUANT(name, ...) \
  case DType::name:              \
    return quant_##name;
#include "base/quant/types.def"
    default:
      break;
  }
  throw InternalError(fmt::format("{} is not a quantized type", dtype_name(type)));
}

const QuantLayout& quant_layout(DType type) {
  switch (type) {
#define REPRISE_QUANT(name, ...) \
  case DType::name:              \
    return kQuantLayout<DType::name>;
#include "base/quant/types.def"
    default:
      break;
  }
  throw InternalError(fmt::format("{} is not a quantized type", dtype_name(type)));
}

PartScale part_scale(const QuantLayout& layout, const uint16_t* numbers, const uint8_t* code) {
  const float d = layout.numbers > 0 ? f16_to_float(numbers[0]) : 0;
  const float e = layout.numbers > 1 ? f16_to_float(numbers[1]) : 0;
  switch (layout.code) {
    case ScaleCode::None:
      return {d, e};
    case ScaleCode::Signed:
      return {d * static_cast<float>(static_cast<int8_t>(code[0])), 0};
    case ScaleCode::Pair:
      return {d * static_cast<float>(code[0]), -(e * static_cast<float>(code[1]))};
    case ScaleCode::Nibbles:
      return {d * static_cast<float>(code[0] & 15), -(e * static_cast<float>(code[0] >> 4))};
    case ScaleCode::Exponent:
      return {std::ldexp(1.0f, code[0] - 128), 0};
  }
  throw InternalError("a scale's code");
}

void dequantize_row(DType type, const std::byte* bytes, float* out, int64_t n) {
  REPRISE_CHECK(n % block_values(type) == 0);
  switch (type) {
    case DType::F32:
      if (n > 0) std::memcpy(out, bytes, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_float(load_at<uint16_t>(bytes + 2 * i));
      return;
    case DType::BF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(load_at<uint16_t>(bytes + 2 * i));
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
    default:
      dequantize_blocks(type, bytes, out, n / block_values(type));
  }
}

bool can_quantize(DType type) {
  return type == DType::F32 || type == DType::F16 || type == DType::BF16 ||
         (is_quantized(type) && quant_code(type).quantize != nullptr);
}

void quantize_row(DType type, const float* x, std::byte* out, int64_t n) {
  if (!can_quantize(type)) fail("floats can't be written as {}", dtype_name(type));
  REPRISE_CHECK(n % block_values(type) == 0);
  switch (type) {
    case DType::F32:
      if (n > 0) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t half = float_to_f16(x[i]);
        if ((half & 0x7fffu) == 0x7c00u && std::isfinite(x[i]))
          fail("value {} is beyond the range of F16 (65504)", x[i]);
        store_at(out + 2 * i, half);
      }
      return;
    case DType::BF16:
      for (int64_t i = 0; i < n; ++i) store_at(out + 2 * i, float_to_bf16(x[i]));
      return;
    default:
      quant_code(type).quantize(x, out, n / block_values(type));
  }
}

int gguf_file_type(DType type) {
  switch (type) {
    case DType::F32:
      return 0;
    case DType::F16:
      return 1;
    case DType::BF16:
      return 32;
    default:
      return is_quantized(type) ? quant_code(type).file_type : -1;
  }
}

}  // namespace reprise
