// Quantized weights in the layout of the kernels (PackedMatrix in matmul.h), made once at load from
// the rows as they lie in a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/cpu/kernels/matmul.h"
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

// How the type is packed; quads = 0 where no kernels read it.
PanelLayout panel_layout(DType type);

// Packs file_rows [n, k] of a type that has a layout (its file's blocks, unaligned). k a multiple
// of 32. A panel of 0 (a kernel that takes any) packs with 16. pool may be null.
PackedWeights pack(DType type, int64_t n, int64_t k, const std::byte* file_rows, int panel,
                   ThreadPool* pool);

// More than any file block of a type with a layout takes.
inline constexpr size_t kMostBlockBytes = 64;

// Block `block` of row `row` as it was in the file.
void unpack_block(const PackedMatrix& w, int64_t row, int64_t block, std::byte* out);

// Row `row` as floats: out [k], the same values as dequantizing the file's row.
void unpack_row(const PackedMatrix& w, int64_t row, float* out);

}  // namespace reprise::cpu
