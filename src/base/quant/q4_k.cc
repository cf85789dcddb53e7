// Q4_K: 256 values in eight parts of 32; x = (d s) q - dmin m, with a 6-bit scale s and minimum m a
// part.
//   d, dmin  F16
//    12 bytes of s and m (pairs6.h)
//   128 bytes of q: 32 bytes for two parts, the first in the low halves
#include "base/quant/pairs6.h"
#include "base/quant/search.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block);
  to.numbers[1] = load_at<uint16_t>(block + 2);
  pairs6::load(block + 4, to.codes);
  for (int two = 0; two < 4; ++two) split_halves(block + 16 + 32 * two, 32, to.quants + 64 * two);
}

void join(const QuantBlock& block, std::byte* out) {
  store_at(out, block.numbers[0]);
  store_at(out + 2, block.numbers[1]);
  pairs6::store(block.codes, out + 4);
  for (int two = 0; two < 4; ++two) join_halves(block.quants + 64 * two, 32, out + 16 + 32 * two);
}

}  // namespace

constinit const QuantCode quant_Q4_K = {
    .split = split,
    .quantize =
        quant_search::quantize_each<DType::Q4_K, quant_search::with_minimum<DType::Q4_K, 63>, join>,
    .file_type = 15};

}  // namespace reprise
