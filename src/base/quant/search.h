// Finds scales and quants for blocks of 256 values: those of least squared error among many, larger
// values counting more. For the files of types whose parts have codes.
//
// Each part is fitted alone first: for a number of step widths the values are rounded, and the
// scale (and minimum) with the least error for these quants follows by linear regression. Then the
// parts' scales are rounded to codes times the block's numbers, which are fitted to the whole block
// in turn, and every code is compared with its neighbours.
#pragma once

#include "base/quant/type.h"

namespace reprise::quant_search {

// x [256] as s q - m, m >= 0: types of ScaleCode::Pair or Nibbles, whose codes are 0 to most_code.
// Throws Error where a value is not finite or too large.
void with_minimum(const QuantLayout& layout, int most_code, const float* x, QuantBlock& to);
template <DType kType, int kMostCode>
void with_minimum(const float* x, QuantBlock& to) {
  with_minimum(kQuantLayout<kType>, kMostCode, x, to);
}

// x [256] as s (q - zero): ScaleCode::Signed, codes -half_range to half_range - 1.
void symmetric(const QuantLayout& layout, int half_range, const float* x, QuantBlock& to);
template <DType kType, int kHalfRange>
void symmetric(const float* x, QuantBlock& to) {
  symmetric(kQuantLayout<kType>, kHalfRange, x, to);
}

// A type's QuantCode::quantize: kSearch finds a block's parts, kJoin writes them.
template <DType kType, void (*kSearch)(const float* x, QuantBlock& to),
          void (*kJoin)(const QuantBlock& block, std::byte* out)>
void quantize_each(const float* x, std::byte* out, int64_t blocks) {
  constexpr QuantLayout kLayout = kQuantLayout<kType>;
  QuantBlock block;
  for (; blocks > 0; --blocks, x += kLayout.values, out += kLayout.bytes) {
    kSearch(x, block);
    kJoin(block, out);
  }
}

}  // namespace reprise::quant_search
