// What the file of a quantized type defines: how its blocks turn into floats and, where Reprise
// writes the type, back. Its sizes are a row of types.def. Layouts are those of GGUF v3; bits agree
// with the Python package `gguf` (gguf.quants). See docs/adding_a_quantized_type.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace reprise {

// A block of 32 values as integer dot products take it: scale * q, or scale * q + minimum for types
// with two F16 numbers a block (without one nothing is added, so that -0 stays -0).
struct QuantIntegers {
  float scale;
  float minimum;
  int8_t q[32];
};

struct QuantCode {
  // `blocks` blocks at `from`, which may be unaligned.
  void (*dequantize)(const std::byte* from, float* out, int64_t blocks);
  // Null: the type is only read. Throws Error where a value can't be stored.
  void (*quantize)(const float* x, std::byte* out, int64_t blocks) = nullptr;
  // llama.cpp's number for a file whose weights are mostly of this type (general.file_type); -1
  // where the type is not written.
  int file_type = -1;
  // One block; null where no kernels read the type.
  QuantIntegers (*split)(const std::byte* block) = nullptr;
};

// quant_Q8_0, ...: each defined in its type's file.
#define REPRISE_QUANT(name, ...) extern const QuantCode quant_##name;
#include "base/quant/types.def"

// Error of our own (InternalError) for a type that isn't quantized.
const QuantCode& quant_code(DType type);

// ---- For the types' files

template <class T>
T load_at(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void store_at(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

// The type's sizes in types.def.
struct QuantSize {
  int values, bytes;  // of a block
};
template <DType kType>
inline constexpr QuantSize kQuantSize = {};
#define REPRISE_QUANT(name, values, bytes, ...) \
  template <>                                   \
  inline constexpr QuantSize kQuantSize<DType::name> = {values, bytes};
#include "base/quant/types.def"

// Makes a function over blocks out of one for a block.
template <DType kType, void (*kBlock)(const std::byte* block, float* out)>
void dequantize_each(const std::byte* from, float* out, int64_t blocks) {
  constexpr QuantSize kSize = kQuantSize<kType>;
  for (; blocks > 0; --blocks, from += kSize.bytes, out += kSize.values) kBlock(from, out);
}

}  // namespace reprise
