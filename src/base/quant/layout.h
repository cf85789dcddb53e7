// What a block of a quantized type consists of, whatever order its file has the bits in: F16
// numbers of the whole block, a code for each part of 16 or 32 values, and the quants. From the
// rows of types.def; constants only, so that kernels may include it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"

namespace reprise {

// What the scale s (and minimum m) of a part are, with d and e the block's numbers:
enum class ScaleCode : uint8_t {
  None,      // s = d, m = e
  Signed,    // a signed byte c: s = d c
  Pair,      // two bytes, a and b: s = d a, m = -(e b)
  Nibbles,   // the same in one byte, a in its low half
  Exponent,  // a byte c: s = 2^(c - 128)
};
constexpr int code_bytes(ScaleCode code) {
  return code == ScaleCode::None ? 0 : code == ScaleCode::Pair ? 2 : 1;
}

// A value is s level, or s level + m for types with two numbers, both in F32: only the last
// operation rounds. (Without a minimum nothing is added, so that -0 stays -0.)
struct QuantLayout {
  int values, bytes;    // of a block
  int bits;             // of a quant
  int zero;             // level = quant - zero,
  bool has_table;       // or table[quant], at least -zero. (Under sanitizers whether an address is
  const int8_t* table;  // null is no constant.)
  int part;             // values that share a scale
  ScaleCode code;       // of each part
  int numbers;          // F16, of the block
};

// Levels of 4-bit quants: those of IQ4_NL and IQ4_XS, closer together around 0; and twice the
// values of the 4-bit floats of MXFP4 (E2M1).
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr int8_t kFp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <DType kType>
inline constexpr QuantLayout kQuantLayout = {};
#define REPRISE_QUANT(name, values, bytes, gguf, bits, zero, table, part, code, numbers)      \
  template <>                                                                                 \
  inline constexpr QuantLayout kQuantLayout<DType::name> = {                                  \
      values, bytes,           bits,   zero, !std::is_null_pointer_v<decltype(table)>, table, \
      part,   ScaleCode::code, numbers};
#include "base/quant/types.def"

}  // namespace reprise
