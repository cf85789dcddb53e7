// MXFP4: a byte e, then 32 half bytes q, floats of 4 bits; x = 2^(e - 128) level[q], levels being
// twice these floats (OCP Microscaling Formats 1.0).
#include "base/quant/type.h"

namespace reprise {
namespace {

void split(const std::byte* block, QuantBlock& to) {
  to.codes[0] = load_at<uint8_t>(block);
  split_halves(block + 1, 16, to.quants);
}

}  // namespace

constinit const QuantCode quant_MXFP4 = {.split = split};

}  // namespace reprise
