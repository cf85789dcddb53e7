// The decoders behind decode.h; not for use outside src/image.
//
// libpng and libjpeg report errors by longjmp. Every function that calls setjmp here is a small
// static one with trivial locals only, called from a frame that owns the C++ objects, so that a
// jump never passes a destructor.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "image/decode.h"
#include "image/image.h"

namespace reprise::internal {

struct Decoded {
  Image image;  // as stored
  // [height, width], 255 is opaque. Empty: all of it is, or nobody asks (PictureOptions::alpha).
  std::vector<uint8_t> alpha;
  int orientation = 1;         // of EXIF, 1 to 8
  bool always_turned = false;  // whoever reads the format turns it that way, asked or not

  // Room for the alpha of `image`, opaque, where it is asked for.
  void keep_alpha(const DecodeOptions& options);
};

Decoded decode_png(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options);
Decoded decode_jpeg(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options);
// The first frame of a file that moves, on the whole canvas (GIF: what it leaves free has the
// transparent colour, else colour 0; WebP: is transparent black).
Decoded decode_webp(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options);
Decoded decode_gif(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options);
Decoded decode_bmp(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options);
// The first picture of the file.
Decoded decode_tiff(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options);

// a * b / 255, rounded.
inline int multiply_255(int a, int b) {
  const int t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}

// Throws Error when a picture of this size is empty or above the limits.
void check_image_size(uint64_t width, uint64_t height, const std::string& name,
                      const DecodeOptions& options);

// A colour of opacity a (255: opaque) in front of white, as Pillow's paste with a mask does it.
inline uint8_t over_white(int colour, int a) {
  const int t = colour * a + 255 * (255 - a) + 128;
  return static_cast<uint8_t>(((t >> 8) + t) >> 8);
}

}  // namespace reprise::internal
