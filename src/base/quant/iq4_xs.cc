// IQ4_XS: 256 values in eight parts of 32; x = (d s) level[q], with a 6-bit scale s, less 32, a
// part.
//   d        F16
//   the high two bits of the eight s, in 16 bits; their low halves, in 4 bytes
//   128 bytes of q: 16 bytes a part, the first 16 values in the low halves
#include "base/quant/type.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block);
  const auto high = load_at<uint16_t>(block + 2);
  const auto low = load_at<uint32_t>(block + 4);
  for (int part = 0; part < 8; ++part) {
    const auto s = (low >> (4 * part) & 15) | (high >> (2 * part) & 3u) << 4;
    to.codes[part] = static_cast<uint8_t>(static_cast<int>(s) - 32);
    split_halves(block + 8 + 16 * part, 16, to.quants + 32 * part);
  }
}

}  // namespace

constinit const QuantCode quant_IQ4_XS = {.split = split};

}  // namespace reprise
