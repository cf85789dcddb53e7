// What the file of a quantized type defines: how its blocks are taken apart and, where Reprise
// writes the type, made. What the parts mean is its row of types.def (layout.h). Layouts of files
// are those of GGUF v3; bits agree with the Python package `gguf` (gguf.quants). See
// docs/adding_a_quantized_type.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/quant/layout.h"

namespace reprise {

// A block taken apart.
struct QuantBlock {
  static constexpr int kMostValues = 256;
  uint16_t numbers[2];                  // F16: as many as the type has
  uint8_t codes[2 * kMostValues / 16];  // part by part, code_bytes() each
  uint8_t quants[kMostValues];          // in the order of the values
};

struct QuantCode {
  // One block at `from`, which may be unaligned; fills what the type has.
  void (*split)(const std::byte* from, QuantBlock& to);
  // Null: the type is only read. Throws Error where a value can't be stored.
  void (*quantize)(const float* x, std::byte* out, int64_t blocks) = nullptr;
  // llama.cpp's number for a file whose weights are mostly of this type (general.file_type); -1
  // where the type is not written.
  int file_type = -1;
};

// quant_Q8_0, ...: each defined in its type's file.
#define REPRISE_QUANT(name, ...) extern const QuantCode quant_##name;
#include "base/quant/types.def"

// Errors of our own (InternalError) for a type that isn't quantized.
const QuantCode& quant_code(DType type);
const QuantLayout& quant_layout(DType type);

// The scale and minimum of a part; `code` has code_bytes(layout.code) bytes. 0 without a minimum.
struct PartScale {
  float scale, minimum;
};
PartScale part_scale(const QuantLayout& layout, const uint16_t* numbers, const uint8_t* code);
inline int quant_level(const QuantLayout& layout, uint8_t quant) {
  return layout.has_table ? layout.table[quant] : quant - layout.zero;
}

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

// q[i] and q[count + i]: the low and the high half of byte i.
inline void split_halves(const std::byte* from, int count, uint8_t* q) {
  for (int i = 0; i < count; ++i) {
    q[i] = std::to_integer<uint8_t>(from[i] & std::byte{15});
    q[count + i] = std::to_integer<uint8_t>(from[i] >> 4);
  }
}

// Puts bits `shift` to `shift + bits - 1` of 32 bytes above the lowest `above` bits of 32 quants.
inline void split_bits(const std::byte* from, int shift, int bits, int above, uint8_t* q) {
  for (int i = 0; i < 32; ++i)
    q[i] = static_cast<uint8_t>(
        q[i] | ((std::to_integer<int>(from[i]) >> shift) & ((1 << bits) - 1)) << above);
}

// Back.
inline void join_halves(const uint8_t* q, int count, std::byte* to) {
  for (int i = 0; i < count; ++i)
    to[i] = static_cast<std::byte>((q[i] & 15) | (q[count + i] & 15) << 4);
}
inline void join_bits(const uint8_t* q, int shift, int bits, int above, std::byte* to) {
  for (int i = 0; i < 32; ++i)
    to[i] |= static_cast<std::byte>(((q[i] >> above) & ((1 << bits) - 1)) << shift);
}

}  // namespace reprise
