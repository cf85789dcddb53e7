// Q3_K: 256 values in sixteen parts of 16; x = (d s) (q - 4), with a 6-bit scale s, less 32, a
// part.
//    32 bytes of the highest bits of q: value i of a run of 32 in byte i, run r in bit r
//    64 bytes of the low 2 bits: 32 bytes for 128 values, 32 in each pair of bits, low to high
//    12 bytes of s: the low 4 bits in the halves of 8 bytes, parts 0 to 7 in the low ones; then the
//             high 2 bits, parts 0 to 3 in the lowest bits of 4 bytes
//   d        F16
#include "base/quant/search.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block + 108);
  split_halves(block + 96, 8, to.codes);
  for (int part = 0; part < 16; ++part) {
    const int high = std::to_integer<int>(block[104 + part % 4]) >> (part / 4 * 2) & 3;
    to.codes[part] = static_cast<uint8_t>((to.codes[part] | high << 4) - 32);
  }
  std::memset(to.quants, 0, sizeof(to.quants));
  for (int run = 0; run < 8; ++run) {
    split_bits(block + 32 + run / 4 * 32, run % 4 * 2, 2, 0, to.quants + 32 * run);
    split_bits(block, run, 1, 2, to.quants + 32 * run);
  }
}

void join(const QuantBlock& block, std::byte* out) {
  std::memset(out, 0, 108);
  for (int run = 0; run < 8; ++run) {
    join_bits(block.quants + 32 * run, run % 4 * 2, 2, 0, out + 32 + run / 4 * 32);
    join_bits(block.quants + 32 * run, run, 1, 2, out);
  }
  for (int part = 0; part < 16; ++part) {
    const int s = static_cast<int8_t>(block.codes[part]) + 32;
    out[96 + part % 8] |= static_cast<std::byte>((s & 15) << (part / 8 * 4));
    out[104 + part % 4] |= static_cast<std::byte>((s >> 4) << (part / 4 * 2));
  }
  store_at(out + 108, block.numbers[0]);
}

}  // namespace

constinit const QuantCode quant_Q3_K = {
    .split = split,
    .quantize =
        quant_search::quantize_each<DType::Q3_K, quant_search::symmetric<DType::Q3_K, 32>, join>,
    .file_type = 11};

}  // namespace reprise
