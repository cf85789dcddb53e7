#include "text/tokenizer/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"

namespace reprise {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

constexpr bool is_printable_latin1(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct ByteAlphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 0x144> to_byte{};  // -1: not in the alphabet

  ByteAlphabet() {
    to_byte.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t c = is_printable_latin1(byte) ? static_cast<char32_t>(byte) : next++;
      to_char[byte] = c;
      to_byte[c] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

int combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

}  // namespace

Utf8Char first_char(std::string_view text) {
  if (text.empty()) return {};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true, false};
  // Table 3-7 of the standard: the second byte's range depends on the lead byte.
  int length = 0;
  uint8_t low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacement, 1, false, false};
  }
  char32_t code_point = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return {kReplacement, i, false, true};
    if (byte(i) < low || byte(i) > high) return {kReplacement, i, false, false};
    code_point = (code_point << 6) | (byte(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, length, true, false};
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Char c = first_char(text.substr(i, 4));
    if (!c.valid) return false;
    i += c.length;
  }
  return true;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = first_char(text.substr(i, 4));
    if (c.valid)
      out.append(text.substr(i, c.length));
    else
      append_utf8(out, kReplacement);
    i += c.length;
  }
  return out;
}

void append_utf8(std::string& out, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

// Decomposed and recomposed by utf8proc; the marks are put in order here, because utf8proc_map
// sorts them by neighbour swaps: quadratic in the length of a run of marks, which a text may
// choose.
std::string normalize_nfc(std::string_view text) {
  // No character below U+0300 is changed by NFC, and lead bytes below 0xCC are all below that.
  if (std::all_of(text.begin(), text.end(), [](char c) {
        const auto byte = static_cast<uint8_t>(c);
        return byte < 0xCC;
      }))
    return std::string(text);
  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text.size() + 4);
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = first_char(text.substr(i, 4));
    i += c.length;
    utf8proc_int32_t parts[32];  // the longest canonical decomposition has 4 characters
    int boundary = 0;
    const auto n = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c.code_point), parts, std::size(parts),
        static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary);
    REPRISE_CHECK(n > 0 && n <= static_cast<utf8proc_ssize_t>(std::size(parts)));
    chars.insert(chars.end(), parts, parts + n);
  }
  for (auto run = chars.begin(); run != chars.end();) {
    if (combining_class(*run) == 0) {
      ++run;
      continue;
    }
    const auto end = std::find_if(run, chars.end(), [](auto c) { return combining_class(c) == 0; });
    std::stable_sort(run, end,
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    run = end;
  }
  const auto length =
      utf8proc_normalize_utf32(chars.data(), static_cast<utf8proc_ssize_t>(chars.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  REPRISE_CHECK(length >= 0);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(out, static_cast<char32_t>(chars[static_cast<size_t>(i)]));
  return out;
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word_char(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;  // Join_Control
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

char32_t alphabet_char(uint8_t byte) { return byte_alphabet().to_char[byte]; }

std::string to_byte_alphabet(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, alphabet_char(static_cast<uint8_t>(c)));
  return out;
}

bool append_from_byte_alphabet(std::string_view text, std::string& out) {
  const auto& to_byte = byte_alphabet().to_byte;
  for (size_t i = 0; i < text.size(); ++i) {
    // The alphabet ends at U+0143: one byte, or two of which the first is C2 to C5.
    uint32_t c = static_cast<uint8_t>(text[i]);
    if (c >= 0x80) {
      if (c < 0xC2 || c > 0xC5 || ++i == text.size()) return false;
      const uint32_t second = static_cast<uint8_t>(text[i]);
      if ((second & 0xC0) != 0x80) return false;
      c = (c & 0x1F) << 6 | (second & 0x3F);
    }
    if (c >= to_byte.size() || to_byte[c] < 0) return false;
    out.push_back(static_cast<char>(to_byte[c]));
  }
  return true;
}

}  // namespace reprise
