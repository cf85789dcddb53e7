// Q4_K: 256 values in eight parts of 32; x = (d s) q - (dmin m), with a 6-bit scale s and minimum m
// a part.
//   d, dmin  F16
//   12 bytes of s and m. Of parts 0 to 3: the low 6 bits of byte i (s) and of byte 4 + i (m). Of
//            parts 4 to 7: the low (s) and the high (m) half of byte 8 + i, and above them the two
//            high bits of byte i (s) and of byte 4 + i (m), i counted from part 4.
//   128 bytes of q: 32 bytes for two parts, the first in the low halves
#include "base/half.h"
#include "base/quant/type.h"

namespace reprise {
namespace {

void dequantize(const std::byte* block, float* out) {
  const float d = f16_to_float(load_at<uint16_t>(block));
  const float dmin = f16_to_float(load_at<uint16_t>(block + 2));
  const auto byte = [&](int at) { return std::to_integer<int>(block[at]); };
  for (int part = 0; part < 8; ++part) {
    const int low = byte(4 + part % 4), middle = byte(8 + part % 4), high = byte(12 + part % 4);
    const int s = part < 4 ? low & 63 : (high & 15) | ((low >> 6) << 4);
    const int m = part < 4 ? middle & 63 : (high >> 4) | ((middle >> 6) << 4);
    const float scale = d * static_cast<float>(s), minimum = dmin * static_cast<float>(m);
    const int from = 16 + part / 2 * 32, shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i)
      *out++ = scale * static_cast<float>((byte(from + i) >> shift) & 15) - minimum;
  }
}

}  // namespace

constinit const QuantCode quant_Q4_K = {.dequantize = dequantize_each<DType::Q4_K, dequantize>};

}  // namespace reprise
