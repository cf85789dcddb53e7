// Quantized weights in the layout of the kernels (PackedMatrix in matmul.h), made once at load from
// the rows as they lie in a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/cpu/kernels/matmul.h"
#include "base/quant/type.h"
#include "base/thread_pool.h"

namespace reprise::cpu {

// Owns the packed copy. Movable; matrix() stays valid as long as the object it was taken from, or
// the one that was moved to, lives.
class PackedWeights {
 public:
  const PackedMatrix& matrix() const { return matrix_; }
  int64_t bytes() const { return bytes_; }

 private:
  friend PackedWeights pack(DType type, int64_t n, int64_t k, const std::byte* file_rows, int panel,
                            ThreadPool* pool);
  struct Free {
    size_t bytes;
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  PackedMatrix matrix_ = {};
  int64_t bytes_ = 0;
};

// Packs file_rows [n, k] of a quantized type (its file's blocks, unaligned). k a multiple of its
// block. A panel of 0 (a kernel that takes any) packs with 16. pool may be null.
PackedWeights pack(DType type, int64_t n, int64_t k, const std::byte* file_rows, int panel,
                   ThreadPool* pool);

// 32 values of one row, read back.
struct PanelBlock {
  int parts;           // 1, or 2 where scales belong to 16 values
  PartScale scale[2];  // of each part
  bool has_minimum;
  int16_t level[32];
};
PanelBlock read_block(const PackedMatrix& w, int64_t row, int64_t block);
void values_of(const PanelBlock& block, float* out);  // [32]

// Row `row` as floats: out [k], the same values as dequantizing the file's row.
void unpack_row(const PackedMatrix& w, int64_t row, float* out);

}  // namespace reprise::cpu
