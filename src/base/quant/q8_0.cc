// Q8_0: an F16 scale d, then 32 signed bytes q; x = d q.
#include "base/quant/block32.h"

namespace reprise {
namespace {

constexpr int kBytes = kQuantLayout<DType::Q8_0>.bytes;

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block);
  for (int i = 0; i < block32::kValues; ++i)  // 128 more than the signed byte
    to.quants[i] = std::to_integer<uint8_t>(block[2 + i] ^ std::byte{128});
}

void quantize(const float* x, std::byte* out, int64_t blocks) {
  for (; blocks > 0; --blocks, x += block32::kValues, out += kBytes) {
    block32::check_finite(x);
    float amax = 0.0f;
    for (int i = 0; i < block32::kValues; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float d = amax / 127.0f;
    const float scale = block32::inverse(d);
    store_at(out, block32::half_scale(d));
    for (int i = 0; i < block32::kValues; ++i)
      out[2 + i] = static_cast<std::byte>(static_cast<int>(std::round(x[i] * scale)));
  }
}

}  // namespace

constinit const QuantCode quant_Q8_0 = {.split = split, .quantize = quantize, .file_type = 7};

}  // namespace reprise
