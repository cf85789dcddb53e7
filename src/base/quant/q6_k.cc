// Q6_K: 256 values in sixteen parts of 16; x = (d s) (q - 32), with a signed byte s a part.
//   128 bytes of the low 4 bits of q: 64 bytes for 128 values, the first 64 in the low halves
//    64 bytes of the high 2 bits:     32 bytes for 128 values, 32 in each pair of bits, low to high
//    16 bytes of s
//   d        F16
#include "base/quant/search.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.numbers[0] = load_at<uint16_t>(block + 208);
  std::memcpy(to.codes, block + 192, 16);
  for (int half = 0; half < 2; ++half) {
    uint8_t* q = to.quants + 128 * half;
    split_halves(block + 64 * half, 64, q);
    for (int i = 0; i < 4; ++i) split_bits(block + 128 + 32 * half, 2 * i, 2, 4, q + 32 * i);
  }
}

void join(const QuantBlock& block, std::byte* out) {
  std::memset(out + 128, 0, 64);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = block.quants + 128 * half;
    join_halves(q, 64, out + 64 * half);
    for (int i = 0; i < 4; ++i) join_bits(q + 32 * i, 2 * i, 2, 4, out + 128 + 32 * half);
  }
  std::memcpy(out + 192, block.codes, 16);
  store_at(out + 208, block.numbers[0]);
}

}  // namespace

constinit const QuantCode quant_Q6_K = {
    .split = split,
    .quantize =
        quant_search::quantize_each<DType::Q6_K, quant_search::symmetric<DType::Q6_K, 128>, join>,
    .file_type = 18};

}  // namespace reprise
