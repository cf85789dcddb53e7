#include "base/base64.h"

#include <array>
#include <cstdint>

#include "base/error.h"

namespace reprise {
namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoDigit = 64;

constexpr std::array<uint8_t, 256> kValues = [] {
  std::array<uint8_t, 256> values{};
  values.fill(kNoDigit);
  for (size_t i = 0; i < kDigits.size(); ++i)
    values[static_cast<unsigned char>(kDigits[i])] = static_cast<uint8_t>(i);
  return values;
}();

}  // namespace

std::string base64(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t have = bytes.size() - i < 3 ? bytes.size() - i : 3;
    uint32_t group = 0;  // 24 bits, the first byte on top
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < have ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) out += j <= have ? kDigits[group >> (18 - 6 * j) & 63u] : '=';
  }
  return out;
}

std::string decode_base64(std::string_view text, std::string_view where) {
  if (text.size() % 4 != 0)
    fail("{}: not base64: expected groups of 4 characters, found {} characters", where,
         text.size());
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string out;
  out.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    const size_t digits = i + 4 < text.size() ? 4 : 4 - padding;
    uint32_t group = 0;  // 24 bits, the first byte on top
    for (size_t j = 0; j < 4; ++j) {
      const uint8_t value = j < digits ? kValues[static_cast<unsigned char>(text[i + j])] : 0;
      if (value == 64) fail("{}: not base64: character {} is no digit of it", where, i + j + 1);
      group = group << 6 | value;
    }
    const size_t bytes = digits - 1;
    for (size_t j = 0; j < bytes; ++j) out += static_cast<char>(group >> (16 - 8 * j) & 255u);
    if (bytes < 3 && (group & (bytes == 2 ? 255u : 65535u)) != 0)
      fail("{}: not base64: its last digit has bits left over", where);
  }
  return out;
}

}  // namespace reprise
