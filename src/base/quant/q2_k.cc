// Q2_K: 256 values in sixteen parts of 16; x = (d s) q - dmin m, with a half byte of s and of m a
// part.
//    16 bytes of s, in the low halves, and m
//    64 bytes of q: 32 bytes for 128 values, 32 in each pair of bits, low to high
//   d, dmin  F16
#include "base/quant/search.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  std::memcpy(to.codes, block, 16);
  to.numbers[0] = load_at<uint16_t>(block + 80);
  to.numbers[1] = load_at<uint16_t>(block + 82);
  std::memset(to.quants, 0, sizeof(to.quants));
  for (int i = 0; i < 8; ++i)
    split_bits(block + 16 + i / 4 * 32, i % 4 * 2, 2, 0, to.quants + 32 * i);
}

void join(const QuantBlock& block, std::byte* out) {
  std::memcpy(out, block.codes, 16);
  std::memset(out + 16, 0, 64);
  for (int i = 0; i < 8; ++i)
    join_bits(block.quants + 32 * i, i % 4 * 2, 2, 0, out + 16 + i / 4 * 32);
  store_at(out + 80, block.numbers[0]);
  store_at(out + 82, block.numbers[1]);
}

}  // namespace

constinit const QuantCode quant_Q2_K = {
    .split = split,
    .quantize =
        quant_search::quantize_each<DType::Q2_K, quant_search::with_minimum<DType::Q2_K, 15>, join>,
    .file_type = 10};

}  // namespace reprise
