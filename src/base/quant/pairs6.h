// The scales and minima of Q4_K and Q5_K: 6 bits each for eight parts, in 12 bytes. For their files
// only.
//   Parts 0 to 3: the low 6 bits of byte i (s) and of byte 4 + i (m).
//   Parts 4 to 7: the low (s) and the high (m) half of byte 8 + i, and above them the two high bits
//                 of byte i (s) and of byte 4 + i (m), i counted from part 4.
#pragma once

#include "base/quant/type.h"

namespace reprise::pairs6 {

constexpr int kBytes = 12;

// codes[part][2]: s, m.
inline void load(const std::byte* from, uint8_t* codes) {
  const auto byte = [&](int at) { return std::to_integer<int>(from[at]); };
  for (int i = 0; i < 4; ++i) {
    const int low = byte(i), middle = byte(4 + i), high = byte(8 + i);
    codes[2 * i] = static_cast<uint8_t>(low & 63);
    codes[2 * i + 1] = static_cast<uint8_t>(middle & 63);
    codes[2 * i + 8] = static_cast<uint8_t>((high & 15) | (low >> 6) << 4);
    codes[2 * i + 9] = static_cast<uint8_t>((high >> 4) | (middle >> 6) << 4);
  }
}

inline void store(const uint8_t* codes, std::byte* to) {
  for (int i = 0; i < 4; ++i) {
    const int s = codes[2 * i + 8], m = codes[2 * i + 9];
    to[i] = static_cast<std::byte>(codes[2 * i] | (s >> 4) << 6);
    to[4 + i] = static_cast<std::byte>(codes[2 * i + 1] | (m >> 4) << 6);
    to[8 + i] = static_cast<std::byte>((s & 15) | (m & 15) << 4);
  }
}

}  // namespace reprise::pairs6
