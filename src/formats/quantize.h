// Rows of values between float and the element types of files, portable and exact: the reference
// that faster kernels are tested against. Block layouts are those of GGUF v3 (see base/dtype.h):
//   Q8_0  x = d * q           d = amax / 127,           q = round(x / d), half away from zero
//   Q4_0  x = d * (q - 8)     d = (x with amax) / -8,   q = min(15, floor(x / d + 8.5))
//   Q4_1  x = d * q + m       d = (max - min) / 15,     q = min(15, floor((x - m) / d + 0.5)), m =
//   min
// where d and m are stored as f16, while q is computed with the unrounded ones; amax is the largest
// magnitude of the block. Bits agree with the Python package `gguf` (gguf.quants).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace reprise {

// Reads n values of any type as float; `bytes` needs no alignment. n is a multiple of
// block_values(type). Integers and F64 are rounded to the nearest float; Bool gives 0 or 1.
void dequantize_row(DType type, const std::byte* bytes, float* out, int64_t n);

// n is a multiple of 32. Throws Error where a value is not finite or its scale is beyond f16.
void quantize_row_q8_0(const float* x, std::byte* out, int64_t n);
void quantize_row_q4_0(const float* x, std::byte* out, int64_t n);
void quantize_row_q4_1(const float* x, std::byte* out, int64_t n);

// Any of F32 F16 BF16 Q8_0 Q4_0 Q4_1; Error for other types.
void quantize_row(DType type, const float* x, std::byte* out, int64_t n);

}  // namespace reprise
