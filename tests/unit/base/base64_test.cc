#include "base/base64.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace reprise
