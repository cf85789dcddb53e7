// FNV-1a, 64 bits (Fowler, Noll, Vo): the same number for the same content on every machine. Tells
// things apart, doesn't protect against forgery.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string_view>

namespace reprise {

inline constexpr uint64_t kHashStart = 0xcbf29ce484222325u;

// `hash`: that of what comes before, to go on with.
inline uint64_t hash_word(uint32_t word, uint64_t hash = kHashStart) {
  return (hash ^ word) * 0x100000001b3u;
}

inline uint64_t hash_bytes(std::string_view bytes, uint64_t hash = kHashStart) {
  for (const char c : bytes) hash = hash_word(static_cast<unsigned char>(c), hash);
  return hash;
}

// Over the bits of the values, 32 at a time.
inline uint64_t hash_floats(std::span<const float> values, uint64_t hash = kHashStart) {
  for (const float value : values) hash = hash_word(std::bit_cast<uint32_t>(value), hash);
  return hash;
}

}  // namespace reprise
