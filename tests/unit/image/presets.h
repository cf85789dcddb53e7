// What the official releases' preprocessors do, as the configs of tests/data/golden say it.
#pragma once

#include "image/preprocess.h"

namespace reprise::testing {

inline PreprocessConfig clip490_preset(int size = 490) {
  return {.kind = PreprocessKind::Clip490,
          .size = size,
          .mean = {0.48145466f, 0.4578275f, 0.40821073f},
          .std = {0.26862954f, 0.26130258f, 0.27577711f}};
}
inline PreprocessConfig tiles_preset(int size = 448, int max_tiles = 6) {
  return {.kind = PreprocessKind::Tiles,
          .size = size,
          .max_tiles = max_tiles,
          .mean = {0.485f, 0.456f, 0.406f},
          .std = {0.229f, 0.224f, 0.225f}};
}
inline PreprocessConfig square_preset(int size) {
  return {.kind = PreprocessKind::Square,
          .size = size,
          .mean = {0.5f, 0.5f, 0.5f},
          .std = {0.5f, 0.5f, 0.5f}};
}

}  // namespace reprise::testing
