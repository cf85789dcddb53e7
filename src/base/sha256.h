// SHA-256 (FIPS 180-4) by the nettle library: what a file's bytes are known by where two that
// differ must never be taken for each other (a picture's, whose KV another request may go on from).
// For mere fingerprints see hash.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace reprise {

using Sha256 = std::array<uint8_t, 32>;

Sha256 sha256(std::span<const std::byte> bytes);
Sha256 sha256(std::string_view bytes);
std::string to_hex(const Sha256& digest);  // 64 lower-case digits

}  // namespace reprise
