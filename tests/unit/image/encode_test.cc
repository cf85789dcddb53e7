#include "image/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "image/decode.h"

namespace reprise {
namespace {

Image gradient(int width, int height) {
  Image image(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      uint8_t* pixel = image.row(y) + 3 * x;
      pixel[0] = static_cast<uint8_t>(255 * x / width);
      pixel[1] = static_cast<uint8_t>(255 * y / height);
      pixel[2] = 40;
    }
  return image;
}

Image decode(const std::string& bytes) {
  return decode_image(std::as_bytes(std::span(bytes)), "encoded");
}

TEST(Encode, PngIsLossless) {
  for (const auto& [width, height] : {std::pair{1, 1}, {37, 5}, {256, 200}}) {
    const Image image = gradient(width, height);
    const Image back = decode(encode_png(image));
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.height, height);
    EXPECT_EQ(back.pixels, image.pixels);
  }
}

TEST(Encode, JpegIsNearAndSmaller) {
  const Image image = gradient(300, 211);
  const std::string good = encode_jpeg(image, 95), poor = encode_jpeg(image, 20);
  const Image back = decode(good);
  ASSERT_EQ(back.pixels.size(), image.pixels.size());
  int most = 0;
  for (size_t i = 0; i < image.pixels.size(); ++i)
    most = std::max(most, std::abs(int{back.pixels[i]} - int{image.pixels[i]}));
  EXPECT_LE(most, 12);
  EXPECT_LT(poor.size(), good.size());
  EXPECT_LT(good.size(), image.pixels.size() / 4);
}

TEST(Encode, RefusesWhatTheFormatsCannotHold) {
  EXPECT_THROW(encode_png(Image(0, 4)), Error);
  EXPECT_THROW(encode_jpeg(Image(4, 0), 90), Error);
  EXPECT_THROW(encode_jpeg(Image(70000, 1), 90), Error);  // a side has 16 bits in JPEG
}

}  // namespace
}  // namespace reprise
