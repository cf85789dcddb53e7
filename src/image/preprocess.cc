#include "image/preprocess.h"

#include <cmath>
#include <cstddef>
#include <limits>

#include "base/error.h"
#include "image/resample.h"

namespace reprise {
namespace {

constexpr int kMaxTiles = 64;
constexpr int kMaxTileSize = 4096;

void check_size(int size) {
  if (size < 1 || size > kMaxTileSize)
    fail("image preprocessing: key 'size': expected 1 to {}, found {}", kMaxTileSize, size);
}

void check_tiles(int min_tiles, int max_tiles) {
  if (min_tiles < 1 || max_tiles < min_tiles || max_tiles > kMaxTiles)
    fail("image preprocessing: key 'max_tiles': expected {} to {}, found {}", min_tiles, kMaxTiles,
         max_tiles);
}

// The square of `image` with its top left corner at (left, top), [size, size, 3], as planes.
void append_tile(const Image& image, int left, int top, Tiles* tiles) {
  const size_t size = static_cast<size_t>(tiles->size), plane = size * size;
  uint8_t* to = tiles->bytes.data() + 3 * plane * tiles->count++;
  for (size_t y = 0; y < size; ++y) {
    const uint8_t* from = image.row(top + static_cast<int>(y)) + static_cast<size_t>(left) * 3;
    for (size_t x = 0; x < size; ++x, from += 3, ++to) {
      to[0] = from[0];
      to[plane] = from[1];
      to[2 * plane] = from[2];
    }
  }
}

Tiles empty_tiles(int room, int size) {
  Tiles tiles{.size = size};
  tiles.bytes.resize(static_cast<size_t>(room) * 3 * size * size);
  return tiles;
}

Tiles one_tile(const Image& image) {
  Tiles tiles = empty_tiles(1, image.width);
  append_tile(image, 0, 0, &tiles);
  return tiles;
}

}  // namespace

Grid choose_grid(int width, int height, int min_tiles, int max_tiles, int size) {
  REPRISE_CHECK(width > 0 && height > 0, "picture of {} x {}", width, height);
  check_tiles(min_tiles, max_tiles);
  check_size(size);
  const double aspect = static_cast<double>(width) / height;
  const double pixels = static_cast<double>(width) * height;
  Grid best;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int product = min_tiles; product <= max_tiles; ++product) {
    for (int columns = 1; columns <= product; ++columns) {
      if (product % columns != 0) continue;
      const Grid grid = {columns, product / columns};
      const double distance = std::abs(aspect - static_cast<double>(grid.columns) / grid.rows);
      const bool large_enough = pixels > 0.5 * size * size * product;
      if (distance < best_distance || (distance == best_distance && large_enough)) {
        best = grid;
        best_distance = distance;
      }
    }
  }
  return best;
}

Tiles clip_square(const Image& image, int size) {
  check_size(size);
  return one_tile(resize_torch_u8(image, size, size));
}

Tiles grid_tiles(const Image& image, int size, int max_tiles) {
  const Grid grid = choose_grid(image.width, image.height, 1, max_tiles, size);
  const int count = grid.columns * grid.rows;
  Tiles tiles = empty_tiles(count > 1 ? count + 1 : 1, size);
  const Image whole = resize_pillow(image, size * grid.columns, size * grid.rows, Filter::Bicubic);
  for (int row = 0; row < grid.rows; ++row)
    for (int column = 0; column < grid.columns; ++column)
      append_tile(whole, column * size, row * size, &tiles);
  if (count > 1) append_tile(resize_pillow(image, size, size, Filter::Bicubic), 0, 0, &tiles);
  return tiles;
}

Tiles plain_square(const Image& image, int size) {
  check_size(size);
  return one_tile(resize_pillow(image, size, size, Filter::Bicubic));
}

Tiles preprocess(const Image& image, const PreprocessConfig& config) {
  switch (config.kind) {
    case PreprocessKind::Clip490:
      return clip_square(image, config.size);
    case PreprocessKind::Tiles:
      return grid_tiles(image, config.size, config.max_tiles);
    case PreprocessKind::Square:
      return plain_square(image, config.size);
  }
  REPRISE_CHECK(false, "preprocess kind {}", static_cast<int>(config.kind));
  return {};
}

std::vector<float> normalise(const Tiles& tiles, const PreprocessConfig& config) {
  const size_t plane = static_cast<size_t>(tiles.size) * tiles.size;
  REPRISE_CHECK(tiles.bytes.size() == plane * 3 * tiles.count);
  // A byte has 256 values, so the arithmetic is done once for each.
  float values[3][256];
  for (int c = 0; c < 3; ++c) {
    const float mean = config.mean[c], std = config.std[c];
    if (!(std > 0.0f) || !std::isfinite(std) || !std::isfinite(mean))
      fail(
          "image preprocessing: keys 'mean' and 'std': expected finite numbers and std > 0, found "
          "{} and {}",
          mean, std);
    const bool in_bytes = config.kind == PreprocessKind::Clip490;
    for (int v = 0; v < 256; ++v) {
      const float value = static_cast<float>(v);
      values[c][v] =
          in_bytes ? (value - mean * 255.0f) / (std * 255.0f) : (value / 255.0f - mean) / std;
    }
  }
  std::vector<float> pixels(tiles.bytes.size());
  for (int t = 0; t < tiles.count; ++t) {
    for (int c = 0; c < 3; ++c) {
      const size_t start = (static_cast<size_t>(t) * 3 + c) * plane;
      for (size_t i = start; i < start + plane; ++i) pixels[i] = values[c][tiles.bytes[i]];
    }
  }
  return pixels;
}

}  // namespace reprise
