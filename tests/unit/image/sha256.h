// SHA-256 (FIPS 180-4) as lower-case hex, for comparing with golden hashes. Tests only.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace reprise::testing {

inline std::string sha256(std::span<const std::byte> data) {
  // First 32 bits of the fractional parts of the cube roots of the first 64 primes, found with
  // integers: the largest r with r^3 <= p * 2^96.
  static const std::array<uint32_t, 64> k = [] {
    std::array<uint32_t, 64> out{};
    int n = 0;
    for (uint32_t p = 2; n < 64; ++p) {
      bool prime = true;
      for (uint32_t d = 2; d * d <= p; ++d) prime = prime && p % d != 0;
      if (!prime) continue;
      uint64_t r = 0;
      for (int bit = 35; bit >= 0; --bit) {
        const uint64_t t = r | uint64_t{1} << bit;
        // t < 2^36: compare t^3 with p * 2^96 in three 36-bit steps without overflow.
        const unsigned __int128 square = static_cast<unsigned __int128>(t) * t;
        const unsigned __int128 limit = (static_cast<unsigned __int128>(p) << 96) / t;
        if (square <= limit) r = t;
      }
      out[n++] = static_cast<uint32_t>(r);
    }
    return out;
  }();
  std::array<uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::vector<std::byte> text(data.begin(), data.end());
  text.push_back(std::byte{0x80});
  while (text.size() % 64 != 56) text.push_back(std::byte{0});
  for (int i = 7; i >= 0; --i)
    text.push_back(static_cast<std::byte>(uint64_t{data.size()} * 8 >> 8 * i));
  for (size_t block = 0; block < text.size(); block += 64) {
    std::array<uint32_t, 64> w;
    for (int i = 0; i < 16; ++i) {
      w[i] = 0;
      for (int j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<uint32_t>(text[block + 4 * i + j]);
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::array<uint32_t, 8> s = h;
    for (int i = 0; i < 64; ++i) {
      const uint32_t e = s[4], a = s[0];
      const uint32_t t1 = s[7] + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                          ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
      const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) +
                          ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (int i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string hex;
  for (const uint32_t word : h)
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  return hex;
}

template <class T>
std::string sha256(const std::vector<T>& values) {
  return sha256(std::as_bytes(std::span(values)));
}

}  // namespace reprise::testing
