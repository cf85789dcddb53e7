// Q6_K: 256 values in sixteen parts of 16; x = (d s) (q - 32), with a signed byte s a part.
//   128 bytes of the low 4 bits of q: 64 bytes for 128 values, the first 64 in the low halves
//    64 bytes of the high 2 bits:     32 bytes for 128 values, 32 in each pair of bits, low to high
//    16 bytes of s
//   d        F16
#include "base/half.h"
#include "base/quant/type.h"

namespace reprise {
namespace {

void dequantize(const std::byte* block, float* out) {
  const float d = f16_to_float(load_at<uint16_t>(block + 208));
  const auto byte = [&](int at) { return std::to_integer<int>(block[at]); };
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 128; ++i) {
      const int low = (byte(64 * half + i % 64) >> (i / 64 * 4)) & 15;
      const int high = (byte(128 + 32 * half + i % 32) >> (i / 32 * 2)) & 3;
      const auto s = load_at<int8_t>(block + 192 + 8 * half + i / 16);
      *out++ = d * static_cast<float>(s) * static_cast<float>((low | high << 4) - 32);
    }
  }
}

}  // namespace

constinit const QuantCode quant_Q6_K = {.dequantize = dequantize_each<DType::Q6_K, dequantize>};

}  // namespace reprise
