// Random tensors and weights for the backend tests: the same values for the same seed, on every
// backend.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/half.h"
#include "base/rng.h"
#include "support/quant_blocks.h"

namespace reprise::testing {

class Inputs {
 public:
  explicit Inputs(uint64_t seed) : random_(seed, 0) {}

  std::vector<float> values(int64_t count, float size = 1.0f) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out) value = size * (2 * random_.next_uniform() - 1);
    return out;
  }
  Tensor tensor(Backend& be, const Shape& shape, float size = 1.0f) {
    return be.from_host(values(num_elements(shape), size), shape);
  }
  uint32_t below(uint32_t n) { return random_.next_below(n); }

  // A weight in the form of its type's file blocks, values up to about 1.
  HostTensor host(DType type, const Shape& shape) {
    auto bytes = std::make_shared<std::vector<std::byte>>(
        static_cast<size_t>(tensor_bytes(type, shape)) + 1);
    std::byte* at = bytes->data() + 1;  // files don't align their tensors
    std::optional<test::QuantBlocks> quantized;
    if (is_quantized(type)) quantized.emplace(type);
    const int64_t blocks = num_elements(shape) / block_values(type);
    for (int64_t i = 0; i < blocks; ++i, at += block_bytes(type)) {
      if (quantized)
        quantized->fill(at, 1, [&] { return random_.next_below(256); });
      else
        fill_block(type, at);
    }
    HostTensor out;
    out.type = type;
    out.shape = shape;
    out.bytes = {bytes->data() + 1, bytes->size() - 1};
    out.owner = bytes;
    return out;
  }
  Tensor matrix(Backend& be, DType type, const Shape& shape) {
    return be.bind(host(type, shape), WeightUse::Matrix);
  }
  Tensor vector(Backend& be, const Shape& shape) {
    return be.bind(host(DType::F32, shape), WeightUse::Vector);
  }

 private:
  template <class T>
  static void put(std::byte* at, T value) {
    std::memcpy(at, &value, sizeof(value));
  }
  void fill_block(DType type, std::byte* at) {
    const float value = 2 * random_.next_uniform() - 1;
    if (type == DType::F32) return put(at, value);
    if (type == DType::F64) return put(at, static_cast<double>(value));
    if (type == DType::I64) return put(at, static_cast<int64_t>(value * 100));
    if (type == DType::F16) return put(at, float_to_f16(value));
    put(at, float_to_bf16(value));
  }
  Philox random_;
};

}  // namespace reprise::testing
