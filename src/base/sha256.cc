#include "base/sha256.h"

#include <nettle/sha2.h>

namespace reprise {

Sha256 sha256(std::span<const std::byte> bytes) {
  static_assert(SHA256_DIGEST_SIZE == sizeof(Sha256));
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, bytes.size(), reinterpret_cast<const uint8_t*>(bytes.data()));
  Sha256 digest;
  sha256_digest(&context, digest.size(), digest.data());
  return digest;
}

Sha256 sha256(std::string_view bytes) { return sha256(std::as_bytes(std::span(bytes))); }

std::string to_hex(const Sha256& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const uint8_t byte : digest) {
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  return hex;
}

}  // namespace reprise
