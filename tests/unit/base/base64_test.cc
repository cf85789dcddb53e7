#include "base/base64.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/error_of.h"

namespace reprise {
namespace {

TEST(Base64, TestVectorsOfTheRfc) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(Base64, EveryByte) {
  EXPECT_EQ(base64(std::string_view("\xff\xfe\xfd\0", 4)), "//79AA==");
  EXPECT_EQ(base64(std::string_view("\xfb\xf0\x00", 3)), "+/AA");
}

TEST(Base64, TheWayBack) {
  for (const std::string text : {"", "f", "fo", "foo", "foob", "fooba", "foobar"})
    EXPECT_EQ(decode_base64(base64(text), "x"), text);
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  EXPECT_EQ(decode_base64(base64(bytes), "x"), bytes);
}

TEST(Base64, WhatIsNone) {
  const auto error = [](const std::string& text) {
    return test::error_of([&] { decode_base64(text, "here"); });
  };
  EXPECT_EQ(error("Zg="), "here: not base64: expected groups of 4 characters, found 3 characters");
  EXPECT_EQ(error("Zm9v YmE"), "here: not base64: character 5 is no digit of it");
  EXPECT_EQ(error("Zm9-"), "here: not base64: character 4 is no digit of it");
  for (const char* text : {"Zg==Zg==", "Z===", "====", "Zm=v", "=Zm9", "Zm9v\n\n\n\n"})
    EXPECT_THAT(error(text), ::testing::HasSubstr("is no digit of it")) << text;
  EXPECT_EQ(error("Zh=="), "here: not base64: its last digit has bits left over");
  EXPECT_EQ(error("Zm9="), "here: not base64: its last digit has bits left over");
}

}  // namespace
}  // namespace reprise
