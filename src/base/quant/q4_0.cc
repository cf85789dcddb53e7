// Q4_0: an F16 scale d, then 32 half bytes q; x = d (q - 8).
#include "base/quant/block32.h"

namespace reprise {
namespace {

constexpr int kBytes = kQuantSize<DType::Q4_0>.bytes;

QuantIntegers split(const std::byte* block) {
  QuantIntegers parts = {block32::load_scale(block), 0, {}};
  block32::load_nibbles(block + 2, 8, parts.q);
  return parts;
}

void quantize(const float* x, std::byte* out, int64_t blocks) {
  for (; blocks > 0; --blocks, x += block32::kValues, out += kBytes) {
    block32::check_finite(x);
    float extreme = 0.0f;  // the largest magnitude with its sign; the first of equals
    for (int i = 0; i < block32::kValues; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    const float d = extreme / -8.0f;
    const float scale = block32::inverse(d);
    store_at(out, block32::half_scale(d));
    block32::store_nibbles(
        x, out + 2, [&](float v) { return std::min(15, static_cast<int>(v * scale + 8.5f)); });
  }
}

}  // namespace

constinit const QuantCode quant_Q4_0 = {
    .dequantize = dequantize_each<DType::Q4_0, block32::dequantize<split, false>>,
    .quantize = quantize,
    .file_type = 2,
    .split = split};

}  // namespace reprise
