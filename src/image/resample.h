// Resizing, equal to the bit to the libraries that the models' training pipelines used. Which one
// is called matters: Pillow's and PyTorch's "bicubic" are different functions.
//
// All work on 8-bit pictures is separable integer arithmetic: a pass along one axis, rounded and
// clamped to bytes, then one along the other. Sums are exact, so the order of additions can't
// matter. Work memory: one picture row of the output width for every input row that one output row
// needs. Throws Error when a target side is not in 1..kMaxResizeSide.
#pragma once

#include "image/image.h"

namespace reprise {

inline constexpr int kMaxResizeSide = 16384;

enum class Filter { Bilinear, Bicubic };

// Pillow's Image.resize((width, height), filter): when shrinking, the filter is stretched to cover
// the source (antialiasing); bicubic is Keys' with a = -0.5; 22-bit fixed-point weights. The aspect
// ratio is not kept. Equal to Pillow 13.0, which resizes vertically first when the height shrinks
// much more than the width; earlier versions never do, and may differ by a level there.
Image resize_pillow(const Image& image, int width, int height, Filter filter);

// PyTorch's torch.nn.functional.interpolate(mode="bicubic", align_corners=False) on uint8 tensors:
// Keys' bicubic with a = -0.75, half-pixel centres, no antialiasing; the weights of positions
// outside the picture go to its border. int16 weights with p bits per axis, p the largest with
// round(largest weight * 2^p) < 2^15.
Image resize_torch_u8(const Image& image, int width, int height);

}  // namespace reprise
