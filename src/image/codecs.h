// The two decoders behind decode.h; not for use outside src/image.
//
// libpng and libjpeg report errors by longjmp. Every function that calls setjmp here is a small
// static one with trivial locals only, called from a frame that owns the C++ objects, so that a
// jump never passes a destructor.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "image/decode.h"
#include "image/image.h"

namespace reprise::internal {

// Each returns the upright-as-stored picture and sets *orientation to the EXIF orientation, 1..8
// (1 when there is none).
Image decode_png(std::span<const std::byte> bytes, const std::string& name,
                 const DecodeOptions& options, int* orientation);
Image decode_jpeg(std::span<const std::byte> bytes, const std::string& name,
                  const DecodeOptions& options, int* orientation);

// Throws Error when a picture of this size is empty or above the limits.
void check_image_size(uint64_t width, uint64_t height, const std::string& name,
                      const DecodeOptions& options);

}  // namespace reprise::internal
