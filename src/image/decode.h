// PNG, JPEG, WebP, GIF, BMP and TIFF to 8-bit RGB, with the bytes of Pillow's
// Image.open(f).convert("RGB"): alpha is dropped, not blended (unless Alpha::White is asked for);
// palettes are expanded (an index past the palette is black); grey is repeated; 16-bit colour keeps
// the high byte, 16-bit grey without alpha is clipped at 255; a JPEG's CMYK follows Adobe's inverted
// convention; of several frames or pages the first is taken. Colour profiles and gamma are ignored.
//
// Pictures are untrusted input: sizes are checked against the limits before memory is allocated,
// and a file that is damaged or cut short is an Error, never a half-decoded picture. (Pillow is
// more lenient: it shows what it got from a JPEG with damaged data.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "image/image.h"

namespace reprise {

// No side may be longer than this, whatever the limits: it keeps the work memory of resampling
// proportional to the picture (JPEG can't say more either).
inline constexpr int kMaxImageSide = 65535;

// What is seen where a picture is transparent.
enum class Alpha {
  Official,  // the colour stored there, whatever it is: as convert("RGB") in the models' own code
  White,     // white, in the share that the picture is transparent
};
// "official" or "white"; Error otherwise.
Alpha parse_alpha(const std::string& text);

// What pixels are made of a file.
struct PictureOptions {
  // Turn the picture as its EXIF orientation tag says (TIFF 6.0 / Exif 2.32, tag 0x0112), like
  // Pillow's ImageOps.exif_transpose. Off by default, as the models here were trained without.
  // A TIFF is turned always, as Pillow does when it opens one.
  bool apply_exif = false;
  Alpha alpha = Alpha::Official;
  auto operator<=>(const PictureOptions&) const = default;
};

struct DecodeOptions {
  int64_t max_pixels = 100'000'000;
  size_t max_file_bytes = size_t{64} << 20;
  PictureOptions picture;
};

// Decodes a file's bytes; the format is recognised from the first ones. `name` is what errors call
// the picture. Throws Error naming it when the format is not supported (the message lists those
// that are), a limit is exceeded, or the data is damaged.
Image decode_image(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options = {});

// The same from a file; a file above max_file_bytes is refused before it is read.
Image load_image(const std::filesystem::path& path, const DecodeOptions& options = {});

}  // namespace reprise
