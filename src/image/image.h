// A decoded picture: 8-bit RGB, no alpha, no colour management.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace reprise {

struct Image {
  int width = 0;
  int height = 0;
  int channels = 3;             // always 3
  std::vector<uint8_t> pixels;  // [height, width, 3]

  Image() = default;
  Image(int w, int h) : width(w), height(h), pixels(static_cast<size_t>(w) * h * 3) {}

  uint8_t* row(int y) { return pixels.data() + static_cast<size_t>(y) * width * 3; }
  const uint8_t* row(int y) const { return pixels.data() + static_cast<size_t>(y) * width * 3; }
};

}  // namespace reprise
