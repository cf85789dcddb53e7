// Element types of tensors as they lie in files and in memory. Quantized types follow the GGUF
// specification (v3): rows are cut into blocks of 32 values along the innermost dimension.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace reprise {

enum class DType : uint8_t { F32, F16, BF16, F64, I8, I16, I32, I64, U8, Bool, Q8_0, Q4_0, Q4_1 };

// Number of values per block (1 for plain types, 32 for quantized ones).
int64_t block_values(DType type);
// Bytes per block: Q8_0 34 (f16 scale + 32 int8), Q4_0 18 (f16 scale + 16 bytes of nibbles),
// Q4_1 20 (f16 scale, f16 minimum, 16 bytes of nibbles). In the 4-bit types byte j holds value j in
// its low half and value j + 16 in its high half.
int64_t block_bytes(DType type);
bool is_quantized(DType type);
bool is_float(DType type);  // F32 F16 BF16 F64
std::string_view dtype_name(DType type);

// Shapes are row-major; the last dimension is contiguous. GGUF's reversed order is undone on
// reading.
using Shape = std::vector<int64_t>;

// Product of the dimensions. Throws Error on a negative dimension or on overflow of int64.
int64_t num_elements(const Shape& shape);
// Bytes of a dense tensor. Throws Error on overflow, or where the last dimension is not a multiple
// of the block size.
int64_t tensor_bytes(DType type, const Shape& shape);
std::string shape_string(const Shape& shape);  // "[2, 3, 64]"

}  // namespace reprise
