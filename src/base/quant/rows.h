// Rows of values between float and the element types of files, portable and exact: the reference
// that faster kernels are tested against. Quantized types are told in type.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace reprise {

// Reads n values of any type as float; `bytes` needs no alignment. n is a multiple of
// block_values(type). Integers and F64 are rounded to the nearest float; Bool gives 0 or 1.
void dequantize_row(DType type, const std::byte* bytes, float* out, int64_t n);

// Whether quantize_row knows the type: F32 F16 BF16 and those quantized ones that are written.
bool can_quantize(DType type);
// n is a multiple of block_values(type). Throws Error for other types, where a value is beyond F16
// or, for a quantized type, not finite, or its scale is beyond F16.
void quantize_row(DType type, const float* x, std::byte* out, int64_t n);

// llama.cpp's number for a file whose weights are mostly of this type (general.file_type); -1 where
// it has none, or the type isn't written.
int gguf_file_type(DType type);

}  // namespace reprise
