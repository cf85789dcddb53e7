// Tensors as the model code sees them: small reference-counted handles. What lies behind one
// belongs to the backend that made it; a handle must only be given to that backend.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"

namespace reprise {

// A backend's memory behind a Tensor; each backend derives its own.
class TensorData {
 public:
  virtual ~TensorData() = default;
};

// Row-major and dense: a "row" is everything along the last dimension. Activations are logically
// F32; weights have the type of their file.
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<TensorData> data, Shape shape, DType type = DType::F32)
      : data_(std::move(data)), shape_(std::move(shape)), type_(type) {}

  explicit operator bool() const { return data_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return type_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  // dim(-1) is the last dimension.
  int64_t dim(int i) const {
    const int at = i < 0 ? rank() + i : i;
    REPRISE_CHECK(at >= 0 && at < rank(), "dimension {} of {}", i, shape_string(shape_));
    return shape_[static_cast<size_t>(at)];
  }
  int64_t size() const { return num_elements(shape_); }
  int64_t cols() const { return shape_.empty() ? 1 : shape_.back(); }
  int64_t rows() const { return cols() == 0 ? 0 : size() / cols(); }
  const std::shared_ptr<TensorData>& data() const { return data_; }

 private:
  std::shared_ptr<TensorData> data_;
  Shape shape_;
  DType type_ = DType::F32;
};

// A tensor in host memory, in a file's own format: what weights are bound from. `owner` keeps the
// bytes alive (usually a mapped file). The bytes need not be aligned.
struct HostTensor {
  DType type = DType::F32;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  // Called when the backend has copied or repacked the bytes and won't read them again, so that
  // resident pages of a mapping can go back. May be empty.
  std::function<void()> release;
};

}  // namespace reprise
