// From a picture to what a vision tower takes: square tiles as bytes, then normalised float32.
// Three ways, each equal to the bit to the pipeline its models were trained with.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "image/image.h"

namespace reprise {

using Rgb = std::array<float, 3>;

enum class PreprocessKind {
  Clip490,  // one square by PyTorch's byte bicubic; (v - 255 mean) / (255 std)   (TroL-1.8B, 7B)
  Tiles,    // a grid of squares by Pillow's bicubic, a thumbnail of the whole picture last when
            // there is more than one; (v / 255 - mean) / std       (TroL-3.8B, Phantom, InternVL)
  Square,   // one square by Pillow's bicubic; (v / 255 - mean) / std
};

struct PreprocessConfig {
  PreprocessKind kind = PreprocessKind::Square;
  int size = 0;       // side of a tile in pixels
  int max_tiles = 1;  // of the grid, thumbnail not counted; Tiles only
  Rgb mean{};
  Rgb std{};
};

struct Tiles {
  int count = 0;
  int size = 0;
  std::vector<uint8_t> bytes;  // [count, 3, size, size]
};

struct Grid {
  int columns = 1;
  int rows = 1;
};

// The grid whose columns / rows is nearest to width / height among those with min_tiles <=
// columns * rows <= max_tiles, taken in order of columns * rows; at an exact tie a later one
// replaces an earlier one when the picture has more than half of its pixels
// (width * height > 0.5 * size * size * columns * rows). With min_tiles = 1 the order among grids
// of equal product never matters; it is by columns here. Throws Error unless 1 <= min_tiles <=
// max_tiles <= 64.
Grid choose_grid(int width, int height, int min_tiles, int max_tiles, int size);

// One size x size square by PyTorch's byte bicubic, [1, 3, size, size]; the aspect ratio is not
// kept.
Tiles clip_square(const Image& image, int size);

// The picture resized to the grid and cut row by row, plus the thumbnail when the grid has more
// than one tile.
Tiles grid_tiles(const Image& image, int size, int max_tiles);

// One size x size square by Pillow's bicubic; the picture as it is when it has that size already.
Tiles plain_square(const Image& image, int size);

// What the configuration says. Throws Error naming the key when one is out of range.
Tiles preprocess(const Image& image, const PreprocessConfig& config);

// Pixel values [count, 3, size, size], in the float32 arithmetic of the kind (see PreprocessKind).
std::vector<float> normalise(const Tiles& tiles, const PreprocessConfig& config);

}  // namespace reprise
