// Resizing against Pillow and PyTorch: hashes of results made by tests/data/image/make.py.
#include "image/resample.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "support/paths.h"
#include "unit/image/hex_sha256.h"

namespace reprise {
namespace {

using testing::hex_sha256;

uint32_t noise(uint32_t i) {
  uint32_t h = i * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  return h ^ h >> 13;
}

// As pattern() in make.py.
Image pattern(const std::string& kind, int w, int h) {
  Image image(w, h);
  for (uint32_t i = 0; i < image.pixels.size(); ++i) {
    if (kind == "noise") {
      image.pixels[i] = static_cast<uint8_t>(noise(i) >> 24);
    } else if (kind == "binary") {
      image.pixels[i] = static_cast<uint8_t>((noise(i) >> 31) * 255);
    } else {
      image.pixels[i] = static_cast<uint8_t>(i / 3 % w * 7 + i / 3 / w * 3 + i % 3 * 50);
    }
  }
  return image;
}

nlohmann::json expected() {
  return nlohmann::json::parse(read_file(test::data_dir() / "image/resample.json"));
}

TEST(Resample, EqualsPillowAndTorch) {
  const auto cases = expected()["resize"];
  ASSERT_GE(cases.size(), 40u);
  for (const auto& c : cases) {
    SCOPED_TRACE(c.dump());
    const Image in = pattern(c["pattern"], c["from"][0], c["from"][1]);
    const int w = c["to"][0], h = c["to"][1];
    const Image bicubic = resize_pillow(in, w, h, Filter::Bicubic);
    EXPECT_EQ(bicubic.width, w);
    EXPECT_EQ(bicubic.height, h);
    EXPECT_EQ(hex_sha256(bicubic.pixels), c["pillow_bicubic"]);
    EXPECT_EQ(hex_sha256(resize_pillow(in, w, h, Filter::Bilinear).pixels), c["pillow_bilinear"]);
    EXPECT_EQ(hex_sha256(resize_torch_u8(in, w, h).pixels), c["torch_u8"]);
  }
}

TEST(Resample, BadSizes) {
  const Image image = pattern("noise", 4, 4);
  EXPECT_THROW(resize_pillow(image, 0, 4, Filter::Bicubic), Error);
  EXPECT_THROW(resize_pillow(image, 4, kMaxResizeSide + 1, Filter::Bicubic), Error);
  EXPECT_THROW(resize_torch_u8(image, 4, -1), Error);
}

}  // namespace
}  // namespace reprise
