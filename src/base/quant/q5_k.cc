// Q5_K: 256 values in eight parts of 32; x = (d s) q - dmin m, with a 6-bit scale s and minimum m a
// part.
//   d, dmin  F16
//    12 bytes of s and m (pairs6.h)
//    32 bytes of the highest bits of q: value i of a part in byte i, part p in bit p
//   128 bytes of the low 4 bits: 32 bytes for two parts, the first in the low halves
#include "base/quant/pairs6.h"
#include "base/quant/search.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block);
  to.numbers[1] = load_at<uint16_t>(block + 2);
  pairs6::load(block + 4, to.codes);
  for (int two = 0; two < 4; ++two) split_halves(block + 48 + 32 * two, 32, to.quants + 64 * two);
  for (int part = 0; part < 8; ++part) split_bits(block + 16, part, 1, 4, to.quants + 32 * part);
}

void join(const QuantBlock& block, std::byte* out) {
  store_at(out, block.numbers[0]);
  store_at(out + 2, block.numbers[1]);
  pairs6::store(block.codes, out + 4);
  std::memset(out + 16, 0, 32);
  for (int part = 0; part < 8; ++part) join_bits(block.quants + 32 * part, part, 1, 4, out + 16);
  for (int two = 0; two < 4; ++two) join_halves(block.quants + 64 * two, 32, out + 48 + 32 * two);
}

}  // namespace

constinit const QuantCode quant_Q5_K = {
    .split = split,
    .quantize =
        quant_search::quantize_each<DType::Q5_K, quant_search::with_minimum<DType::Q5_K, 63>, join>,
    .file_type = 17};

}  // namespace reprise
