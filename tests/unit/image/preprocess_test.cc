// Preprocessing against the official TroL and Phantom pipelines (tests/data/image/golden, whose
// README names the tensors), bit for bit.
#include "image/preprocess.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "image/decode.h"
#include "image/resample.h"
#include "support/paths.h"
#include "unit/image/hex_sha256.h"
#include "unit/image/presets.h"

namespace reprise {
namespace {

using testing::hex_sha256;

const std::string kGolden = test::data_dir().string() + "/image/golden/";

class Golden : public ::testing::Test {
 protected:
  static nlohmann::json index() { return nlohmann::json::parse(read_file(kGolden + "index.json")); }
  // Every stride-th value of both sides of [count, 3, size, size] equals the golden tensor.
  template <class T>
  void expect_samples(const std::string& tensor, const std::vector<T>& values, int size,
                      int stride) const {
    const TensorView& want = file_.weights.get(tensor);
    std::vector<T> got;
    for (size_t plane = 0; plane < values.size(); plane += static_cast<size_t>(size) * size)
      for (int y = 0; y < size; y += stride)
        for (int x = 0; x < size; x += stride)
          got.push_back(values[plane + static_cast<size_t>(y) * size + x]);
    ASSERT_EQ(want.data.size(), got.size() * sizeof(T)) << tensor;
    EXPECT_EQ(std::memcmp(want.data.data(), got.data(), want.data.size()), 0) << tensor;
    ++compared_;
  }
  const SafetensorsFile file_ = open_safetensors(kGolden + "preprocess.safetensors");
  mutable int compared_ = 0;
};

TEST_F(Golden, Pictures) {
  const nlohmann::json golden = index();
  ASSERT_EQ(golden["images"].size(), 12u);
  for (const auto& [name, want] : golden["images"].items()) {
    SCOPED_TRACE(name);
    const Image image = load_image(kGolden + name + ".png");
    EXPECT_EQ(image.width, want["width"]);
    EXPECT_EQ(image.height, want["height"]);
    std::vector<uint8_t> planes;  // [3, height, width]
    for (int c = 0; c < 3; ++c)
      for (size_t i = c; i < image.pixels.size(); i += 3) planes.push_back(image.pixels[i]);
    EXPECT_EQ(hex_sha256(planes), want["rgb_sha256"]);

    const PreprocessConfig tiles_config = testing::tiles_preset();
    const Tiles tiles = preprocess(image, tiles_config);
    ASSERT_EQ(tiles.count, want["tiles"]["count"]);
    EXPECT_EQ(tiles.size, 448);
    const Grid grid = choose_grid(image.width, image.height, 1, 6, 448);
    EXPECT_EQ(grid.columns, want["tiles"]["columns"]);
    EXPECT_EQ(grid.rows, want["tiles"]["rows"]);
    const size_t tile_bytes = size_t{3} * 448 * 448;
    const auto bytes = std::as_bytes(std::span(tiles.bytes));
    for (int t = 0; t < tiles.count; ++t)
      EXPECT_EQ(hex_sha256(bytes.subspan(t * tile_bytes, tile_bytes)), want["tiles"]["tile_sha256"][t])
          << "tile " << t;
    expect_samples(name + ".tiles_u8_stride8", tiles.bytes, 448, 8);
    expect_samples(name + ".tiles_pixels_stride32", normalise(tiles, tiles_config), 448, 32);
    if (file_.weights.find(name + ".tiles_u8_first") != nullptr)
      expect_samples(name + ".tiles_u8_first",
                     std::vector<uint8_t>(tiles.bytes.begin(), tiles.bytes.begin() + tile_bytes),
                     448, 1);

    const PreprocessConfig clip_config = testing::clip490_preset();
    const Tiles clip = preprocess(image, clip_config);
    EXPECT_EQ(clip.count, 1);
    EXPECT_EQ(hex_sha256(clip.bytes), want["clip490"]["sha256"]);
    expect_samples(name + ".clip490_u8_stride7", clip.bytes, 490, 7);
    expect_samples(name + ".clip490_pixels_stride35", normalise(clip, clip_config), 490, 35);
    if (file_.weights.find(name + ".clip490_u8") != nullptr)
      expect_samples(name + ".clip490_u8", clip.bytes, 490, 1);
  }
  // All tensors of the file but the two of a position table, which isn't a picture.
  EXPECT_EQ(compared_, static_cast<int>(file_.weights.tensors().size()) - 2);
}

TEST_F(Golden, GridTable) {
  const nlohmann::json golden = index();
  ASSERT_EQ(golden["grid_table"].size(), 333u);
  for (const auto& row : golden["grid_table"]) {
    const Grid grid = choose_grid(row[0], row[1], 1, 6, 448);
    EXPECT_EQ(grid.columns, row[2]) << row.dump();
    EXPECT_EQ(grid.rows, row[3]) << row.dump();
  }
}

Image slopes(int w, int h) {
  Image image(w, h);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i * 5);
  return image;
}

TEST(Preprocess, SquareKeepsAPictureOfItsSize) {
  const Image image = slopes(8, 8);
  const PreprocessConfig config = testing::square_preset(8);
  const Tiles tiles = preprocess(image, config);
  ASSERT_EQ(tiles.count, 1);
  ASSERT_EQ(tiles.size, 8);
  const std::vector<float> pixels = normalise(tiles, config);
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < 64; ++i) {
      const uint8_t v = image.pixels[3 * i + c];
      ASSERT_EQ(tiles.bytes[64 * c + i], v);
      ASSERT_EQ(pixels[64 * c + i], (static_cast<float>(v) / 255.0f - 0.5f) / 0.5f);
    }
  }
}

TEST(Preprocess, SquareResizesAsPillow) {
  const Image image = slopes(13, 9);
  const Tiles tiles = preprocess(image, testing::square_preset(32));
  const Image want = resize_pillow(image, 32, 32, Filter::Bicubic);
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < 32 * 32; ++i)
      ASSERT_EQ(tiles.bytes[32 * 32 * c + i], want.pixels[3 * i + c]);
}

TEST(Preprocess, TilesAreCutRowByRowThumbnailLast) {
  const Image image = slopes(32, 48);  // 2 x 3 tiles of 16: no resizing
  const Tiles tiles = preprocess(image, testing::tiles_preset(16, 6));
  ASSERT_EQ(tiles.count, 7);
  for (int t = 0; t < 6; ++t)
    for (int y = 0; y < 16; ++y)
      for (int x = 0; x < 16; ++x)
        ASSERT_EQ(tiles.bytes[(t * 3 + 1) * 256 + y * 16 + x],
                  image.row(t / 2 * 16 + y)[3 * (t % 2 * 16 + x) + 1]);
  const Tiles thumbnail = plain_square(image, 16);
  EXPECT_TRUE(std::equal(thumbnail.bytes.begin(), thumbnail.bytes.end(),
                         tiles.bytes.begin() + 6 * 3 * 256));
}

TEST(Preprocess, GridKeepsToItsBounds) {
  for (int most = 1; most <= 12; ++most) {
    for (const auto& [w, h] : {std::pair{1, 1}, {1000, 1}, {1, 1000}, {640, 480}, {65535, 65535}}) {
      const Grid grid = choose_grid(w, h, 1, most, 448);
      EXPECT_LE(grid.columns * grid.rows, most);
      EXPECT_GE(grid.columns * grid.rows, 1);
    }
  }
  EXPECT_EQ(choose_grid(100, 100, 4, 4, 448).columns, 2);
}

TEST(Preprocess, BadConfigurations) {
  const Image image = slopes(4, 4);
  EXPECT_THROW(preprocess(image, testing::square_preset(0)), Error);
  EXPECT_THROW(preprocess(image, testing::clip490_preset(-3)), Error);
  EXPECT_THROW(preprocess(image, testing::tiles_preset(448, 0)), Error);
  EXPECT_THROW(preprocess(image, testing::tiles_preset(448, 65)), Error);
  EXPECT_THROW(preprocess(image, testing::tiles_preset(100'000, 6)), Error);
  PreprocessConfig config = testing::square_preset(4);
  config.std[1] = 0.0f;
  EXPECT_THROW(normalise(preprocess(image, config), config), Error);
}

}  // namespace
}  // namespace reprise
