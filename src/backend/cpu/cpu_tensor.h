// What lies behind a Tensor and a KvPage of the cpu backend.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/cpu/memory/packing.h"
#include "backend/kv.h"
#include "backend/tensor.h"

namespace reprise::cpu {

// Bytes of bound weights, counted while they live.
class WeightCount {
 public:
  WeightCount(std::shared_ptr<std::atomic<int64_t>> total, int64_t bytes)
      : total_(std::move(total)), bytes_(bytes) {
    *total_ += bytes_;
  }
  ~WeightCount() { *total_ -= bytes_; }
  WeightCount(const WeightCount&) = delete;
  WeightCount& operator=(const WeightCount&) = delete;

 private:
  std::shared_ptr<std::atomic<int64_t>> total_;
  int64_t bytes_;
};

// Values of the tensor's type, row-major, or a packed quantized matrix. Views share `owner`.
class CpuData final : public TensorData {
 public:
  std::shared_ptr<const void> owner;            // keeps `bytes` alive
  std::byte* bytes = nullptr;                   // mapped weights: read only, may be unaligned
  std::shared_ptr<const PackedWeights> packed;  // then bytes is null
  std::shared_ptr<WeightCount> count;           // weights only
};

inline CpuData& data_of(const Tensor& x) {
  REPRISE_CHECK(x, "an empty tensor was given to an operation");
  return static_cast<CpuData&>(*x.data());
}

// The values of an activation or of a weight bound as Vector.
inline const float* floats(const Tensor& x) {
  const CpuData& data = data_of(x);
  REPRISE_CHECK(x.dtype() == DType::F32 && data.bytes, "{} {} is not usable here",
                dtype_name(x.dtype()), shape_string(x.shape()));
  REPRISE_CHECK(reinterpret_cast<uintptr_t>(data.bytes) % alignof(float) == 0,
                "a mapped weight is used as an activation");
  return reinterpret_cast<const float*>(data.bytes);
}

// For the operation that has just made x.
inline float* new_floats(const Tensor& x) { return reinterpret_cast<float*>(data_of(x).bytes); }

// Entries of kKvPageTokens tokens: keys [heads][k_dim][kKvPageTokens], component by component as
// attention reads them (KvLayout), then values [heads][kKvPageTokens][v_dim]. What one head reads
// lies together.
class CpuKvPage final : public KvPage {
 public:
  CpuKvPage(std::shared_ptr<std::byte> bytes, const KvSpec& page_spec)
      : KvPage(page_spec), memory(std::move(bytes)) {}
  // The first of spec.k_dim elements that lie kKvPageTokens apart.
  std::byte* key(int64_t head, int64_t token) const {
    return memory.get() + (head * kKvPageTokens * spec.k_dim + token) * block_bytes(spec.type);
  }
  std::byte* value(int64_t head, int64_t token) const {
    return memory.get() + (int64_t{spec.heads} * kKvPageTokens * spec.k_dim +
                           (head * kKvPageTokens + token) * spec.v_dim) *
                              block_bytes(spec.type);
  }

  std::shared_ptr<std::byte> memory;
};

inline CpuKvPage& page_of(const KvRow& row, int64_t index) {
  return static_cast<CpuKvPage&>(*row.pages[static_cast<size_t>(index)]);
}

}  // namespace reprise::cpu
