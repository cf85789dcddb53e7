// Element types of tensors as they lie in files and in memory. Quantized types follow the GGUF
// specification (v3): rows are cut into blocks along the innermost dimension. They are listed in
// quant/types.def, one row a type; their files beside it tell the layouts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace reprise {

enum class DType : uint8_t {
  F32, F16, BF16, F64, I8, I16, I32, I64, U8, Bool,
#define REPRISE_QUANT(name, ...) name,
#include "base/quant/types.def"
};

// Number of values per block (1 for plain types, 32 or 256 for quantized ones) and its bytes.
int64_t block_values(DType type);
int64_t block_bytes(DType type);
bool is_quantized(DType type);
bool is_float(DType type);  // F32 F16 BF16 F64
std::string_view dtype_name(DType type);
// ggml's number of the type (enum ggml_type); -1 for U8 and Bool, which GGUF doesn't have.
int gguf_type_id(DType type);

// In the order of the enum.
std::vector<DType> all_types();
std::vector<DType> quantized_types();
// For messages: "F32, F16 or BF16".
std::string type_names(std::span<const DType> types);
// The same with all quantized types behind the given ones.
std::string names_with_quantized(std::vector<DType> types);

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
