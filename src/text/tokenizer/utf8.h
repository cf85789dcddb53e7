// UTF-8 and the byte alphabet of byte-level BPE vocabularies. Nothing here ever fails on bad bytes:
// each maximal subpart of an ill-formed sequence (Unicode 15, section 3.9, "U+FFFD substitution of
// maximal subparts") counts as one character U+FFFD, as Python's errors='replace' does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace reprise {

struct Utf8Char {
  char32_t code_point = 0;  // U+FFFD where the bytes are not valid
  int length = 0;           // bytes read: 1 to 4; 0 only for empty text
  bool valid = false;
  bool incomplete = false;  // not valid yet, but more bytes could make it so (text ended too early)
};

// The first character of `text`.
Utf8Char first_char(std::string_view text);
bool is_valid_utf8(std::string_view text);
// `text` with every invalid part replaced by U+FFFD.
std::string to_valid_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);

// Unicode normalization form C of valid UTF-8. O(n log n) for any text.
std::string normalize_nfc(std::string_view valid_text);

// White_Space, and the characters of words as regular expressions understand \w (letters, marks,
// decimal digits, connectors, joiners): what the strip and single_word flags of added tokens ask.
bool is_white_space(char32_t code_point);
bool is_word_char(char32_t code_point);

// The byte alphabet (GPT-2): 188 printable Latin-1 bytes stand for themselves, the other 68, in
// order, are written as U+0100 to U+0143. Token texts in vocabularies are written in it.
char32_t alphabet_char(uint8_t byte);
std::string to_byte_alphabet(std::string_view bytes);
// The way back, appended to `out`; false when a character does not belong to the alphabet (`out` is
// then anything).
bool append_from_byte_alphabet(std::string_view text, std::string& out);

}  // namespace reprise
