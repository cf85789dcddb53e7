#include "text/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <string_view>

namespace reprise {
namespace {

TEST(Utf8, MaximalSubparts) {
  // Examples of the Unicode standard, tables 3-8 to 3-11.
  const std::string r = "\ufffd";
  EXPECT_EQ(to_valid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(to_valid_utf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(to_valid_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(to_valid_utf8("a\xE4\xB8"), "a" + r);
  EXPECT_EQ(to_valid_utf8("\u00e9\u4e00\U0001f642\uffff\U0010ffff"),
            "\u00e9\u4e00\U0001f642\uffff\U0010ffff");
}

TEST(Utf8, EveryCodePointAndNothingElse) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Char read = first_char(text);
    ASSERT_TRUE(read.valid && read.code_point == c && read.length == static_cast<int>(text.size()));
    for (size_t n = 1; n < text.size(); ++n)
      ASSERT_TRUE(first_char(std::string_view(text).substr(0, n)).incomplete);
    if (c > 0x3000) c += 16;  // a sample is enough there
  }
  EXPECT_EQ(first_char("").length, 0);
  EXPECT_FALSE(is_valid_utf8("\xED\xA0\x80"));
  EXPECT_FALSE(is_valid_utf8("ab\xC3"));
  EXPECT_TRUE(is_valid_utf8(std::string_view("a\0b", 3)));
}

TEST(Utf8, Nfc) {
  EXPECT_EQ(normalize_nfc("plain \u00e9"), "plain \u00e9");
  EXPECT_EQ(normalize_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(normalize_nfc("A\u030a\u212b"), "\u00c5\u00c5");
  EXPECT_EQ(normalize_nfc("e\u0302\u0323"), "\u1ec7");  // marks in the wrong order
  EXPECT_EQ(normalize_nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(normalize_nfc("\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(normalize_nfc(std::string("\0e\u0301\0", 5)), std::string("\0\u00e9\0", 4));
}

TEST(Utf8, ByteAlphabet) {
  const auto from_byte_alphabet = [](std::string_view text) -> std::optional<std::string> {
    std::string out;
    if (!append_from_byte_alphabet(text, out)) return std::nullopt;
    return out;
  };
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(from_byte_alphabet(to_byte_alphabet(all)), all);
  EXPECT_EQ(to_byte_alphabet(" \n~"), "\u0120\u010a~");
  EXPECT_EQ(from_byte_alphabet("a b"), std::nullopt);
  EXPECT_EQ(from_byte_alphabet("\u0144"), std::nullopt);
  EXPECT_EQ(from_byte_alphabet("\xff"), std::nullopt);
  EXPECT_EQ(from_byte_alphabet(""), "");
}

}  // namespace
}  // namespace reprise
