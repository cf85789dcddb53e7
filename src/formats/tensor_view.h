// A tensor as it lies in a file. Views are cheap to copy and read nothing until asked.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/quant/rows.h"

namespace reprise {

// data.size() == tensor_bytes(type, shape), row-major, little-endian. data may start at ANY byte:
// safetensors and .pt files need not align, so never cast the pointer to float*; use memcpy,
// to_floats or dequantize_row.
struct TensorView {
  std::string name;
  DType type = DType::F32;
  Shape shape;
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;  // keeps data alive (a mapping, or a vector of bytes)
  // Set where data lies in a mapping; alive as long as owner. A loader that has repacked the tensor
  // calls file->release(data) to give its pages back.
  const MappedFile* file = nullptr;
};

// All values in order, converted as dequantize_row does.
std::vector<float> to_floats(const TensorView& tensor);

// The integer tensors (Bool included) without rounding. Throws Error naming the tensor for others.
std::vector<int64_t> to_ints(const TensorView& tensor);

// Views that own a copy of the given values, for writers. Their size must be num_elements(shape).
TensorView make_view(std::string name, Shape shape, std::span<const float> values);
TensorView make_view(std::string name, Shape shape, std::span<const int64_t> values);
TensorView make_view(std::string name, DType type, Shape shape, std::vector<std::byte> bytes);

// Streams the tensor to a sink as `type`, some rows at a time, so that a large tensor is never held
// twice. The same type passes bytes through; otherwise values go through float (quantize_row).
// Throws Error naming the tensor when that can't be.
void write_as(const TensorView& tensor, DType type, const ByteSink& sink);

}  // namespace reprise
