// Q4_1: an F16 scale d and minimum m, then 32 half bytes q; x = d q + m.
#include "base/quant/block32.h"

namespace reprise {
namespace {

constexpr int kBytes = kQuantSize<DType::Q4_1>.bytes;

QuantIntegers split(const std::byte* block) {
  QuantIntegers parts = {block32::load_scale(block), block32::load_scale(block + 2), {}};
  block32::load_nibbles(block + 4, 0, parts.q);
  return parts;
}

void quantize(const float* x, std::byte* out, int64_t blocks) {
  for (; blocks > 0; --blocks, x += block32::kValues, out += kBytes) {
    block32::check_finite(x);
    const auto [low, high] = std::minmax_element(x, x + block32::kValues);
    const float min = *low;
    const float d = (*high - min) / 15.0f;
    const uint16_t stored_scale = block32::half_scale(d);
    const float scale = block32::inverse(d);
    store_at(out, stored_scale);
    store_at(out + 2, block32::half_scale(min));
    block32::store_nibbles(x, out + 4, [&](float v) {
      return std::min(15, static_cast<int>((v - min) * scale + 0.5f));
    });
  }
}

}  // namespace

constinit const QuantCode quant_Q4_1 = {
    .dequantize = dequantize_each<DType::Q4_1, block32::dequantize<split, true>>,
    .quantize = quantize,
    .file_type = 3,
    .split = split};

}  // namespace reprise
