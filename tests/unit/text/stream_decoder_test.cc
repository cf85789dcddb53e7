#include "text/tokenizer/stream_decoder.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "test_files.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using testing::load_tokenizer;

// The token of one byte in the GPT-2 vocabulary.
int32_t byte_token(const Tokenizer& tokenizer, char byte) {
  return tokenizer.find(to_byte_alphabet({&byte, 1})).value();
}

TEST(StreamDecoder, NeverSplitsACharacter) {
  const auto tokenizer = load_tokenizer("gpt2");
  const std::string text = "a\u00e9\u4e00\U0001f642b";
  StreamDecoder decoder(*tokenizer);
  std::vector<std::string> pieces;
  for (const char c : text) pieces.push_back(decoder.push(byte_token(*tokenizer, c)));
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "", "\u00e9", "", "", "\u4e00", "", "", "",
                                              "\U0001f642", "b"}));
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, InvalidBytesBecomeReplacements) {
  const auto tokenizer = load_tokenizer("gpt2");
  StreamDecoder decoder(*tokenizer);
  const auto push = [&](char c) { return decoder.push(byte_token(*tokenizer, c)); };
  EXPECT_EQ(push('\xff'), "\ufffd");
  EXPECT_EQ(push('\xe4'), "");
  EXPECT_EQ(push('A'), "\ufffdA");  // the lead byte alone was one maximal subpart
  EXPECT_EQ(push('\xf0'), "");
  EXPECT_EQ(push('\x9f'), "");
  EXPECT_EQ(push('\xf0'), "\ufffd");
  EXPECT_EQ(decoder.flush(), "\ufffd");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamDecoder, AnyBytesGiveTheSameAsAtOnce) {
  const auto tokenizer = load_tokenizer("gpt2");
  uint32_t state = 1;
  for (int round = 0; round < 300; ++round) {
    StreamDecoder decoder(*tokenizer);
    std::string bytes, text;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525u + 1013904223u;
      const auto byte =
          static_cast<char>(state >> 16 & 1 ? 0x80 + (state >> 20 & 0x7f) : state >> 24);
      bytes += byte;
      const std::string piece = decoder.push(byte_token(*tokenizer, byte));
      EXPECT_TRUE(is_valid_utf8(piece));
      text += piece;
    }
    EXPECT_EQ(text + decoder.flush(), to_valid_utf8(bytes));
  }
}

TEST(StreamDecoder, SkipsSpecials) {
  const auto tokenizer = load_tokenizer("gpt2");
  const auto ids = tokenizer->encode("a<|endoftext|>b");
  EXPECT_EQ(tokenizer->decode(ids), "a<|endoftext|>b");
  EXPECT_EQ(tokenizer->decode(ids, true), "ab");
}

std::string stopped(std::vector<std::string> stops, const std::string& text, size_t slice) {
  StopMatcher matcher(std::move(stops));
  std::string out;
  for (size_t i = 0; i < text.size(); i += slice) out += matcher.push(text.substr(i, slice));
  return out + matcher.flush() + (matcher.stopped() ? "|" : "");
}

TEST(StopMatcher, CutsAtTheFirstWhateverTheSlices) {
  for (const size_t slice : {1, 2, 3, 5, 100}) {
    EXPECT_EQ(stopped({"END"}, "one END two END", slice), "one |");
    EXPECT_EQ(stopped({"END"}, "one EN two", slice), "one EN two");
    EXPECT_EQ(stopped({"END"}, "one EN", slice), "one EN");
    EXPECT_EQ(stopped({"END"}, "EENEND", slice), "EEN|");
    EXPECT_EQ(stopped({"aab"}, "aaaab", slice), "aa|");
    EXPECT_EQ(stopped({"x", "yx"}, "ayx", slice), "a|");      // complete at once: the longest
    EXPECT_EQ(stopped({"abcd", "bc"}, "abcd", slice), "a|");  // complete first
    EXPECT_EQ(stopped({}, "text", slice), "text");
    EXPECT_EQ(stopped({"\n"}, "\n", slice), "|");
    EXPECT_EQ(stopped({"\u4e00\u4e8c"}, "x\u4e00\u4e00\u4e8c", slice), "x\u4e00|");
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeAStop) {
  StopMatcher matcher({"<|end|>", "\n\n"});
  EXPECT_EQ(matcher.push("Hello <"), "Hello ");
  EXPECT_EQ(matcher.push("b>\n"), "<b>");
  EXPECT_EQ(matcher.push("x<|en"), "\nx");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.push("d|> more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("even more"), "");
  EXPECT_EQ(matcher.flush(), "");
  EXPECT_THROW(StopMatcher({"a", ""}), Error);
}

// Parts in brackets are hidden: special tokens that are left out of the text.
std::string stopped_hiding(std::vector<std::string> stops, const std::string& text, size_t slice) {
  StopMatcher matcher(std::move(stops));
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool hidden = text[i] == '[';
    if (hidden) ++i;
    const size_t end = std::min(text.find(hidden ? ']' : '[', i), text.size());
    for (; i < end; i += slice) {
      const std::string part = text.substr(i, std::min(slice, end - i));
      out += hidden ? matcher.push_hidden(part) : matcher.push(part);
    }
    i = end + (hidden ? 1 : 0);
  }
  return out + matcher.flush() + (matcher.stopped() ? "|" : "");
}

TEST(StopMatcher, HiddenTextCountsAndIsNeverShown) {
  for (const size_t slice : {1, 2, 3, 100}) {
    EXPECT_EQ(stopped_hiding({"<x>"}, "a[<x>]b", slice), "a|");
    EXPECT_EQ(stopped_hiding({"<y>"}, "a[<x>]b", slice), "ab");
    EXPECT_EQ(stopped_hiding({"\n<x>user"}, "a\n[<x>]user b", slice), "a|");
    EXPECT_EQ(stopped_hiding({"\n<x>user"}, "a\n[<x>]you", slice), "a\nyou");
    EXPECT_EQ(stopped_hiding({"x>b"}, "a[<x>]bc", slice), "a|");
    EXPECT_EQ(stopped_hiding({"abc"}, "a[<x>]b[<x>][<y>]cd", slice), "|");  // in what is shown
    EXPECT_EQ(stopped_hiding({"abc"}, "za[<x>]b[<x>]d", slice), "zabd");
    EXPECT_EQ(stopped_hiding({"b<x>", "ab<x>"}, "ab[<x>]", slice), "|");
    EXPECT_EQ(stopped_hiding({}, "a[<x>]b", slice), "ab");
  }
}

}  // namespace
}  // namespace reprise
