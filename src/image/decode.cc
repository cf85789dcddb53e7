#include "image/decode.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "image/codecs.h"
#include "image/exif.h"

namespace reprise {
namespace {

constexpr std::string_view kSupported = "PNG, JPEG, WebP, GIF, BMP and TIFF";

// A format's signature: `bytes` at `offset`.
struct Signature {
  std::string_view format;
  size_t offset;
  std::string_view bytes;
};

using namespace std::string_view_literals;
constexpr std::array<Signature, 15> kSignatures = {{{"PNG", 0, "\x89PNG\r\n\x1a\n"sv},
                                                    {"JPEG", 0, "\xff\xd8\xff"sv},
                                                    {"GIF", 0, "GIF8"sv},
                                                    {"WebP", 8, "WEBP"sv},
                                                    {"BMP", 0, "BM"sv},
                                                    {"TIFF", 0, "II*\0"sv},
                                                    {"TIFF", 0, "MM\0*"sv},
                                                    {"TIFF", 0, "II+\0"sv},  // BigTIFF
                                                    {"TIFF", 0, "MM\0+"sv},
                                                    {"AVIF", 4, "ftypavif"sv},
                                                    {"HEIC", 4, "ftyphei"sv},
                                                    {"HEIC", 4, "ftypmif1"sv},
                                                    {"JPEG 2000", 4, "jP  "sv},
                                                    {"JPEG XL", 0, "\xff\x0a"sv},
                                                    {"PDF", 0, "%PDF"sv}}};

std::string_view recognise(std::string_view data) {
  for (const Signature& s : kSignatures)
    if (data.size() >= s.offset && data.substr(s.offset).starts_with(s.bytes)) return s.format;
  return {};
}

using Decoder = internal::Decoded (*)(std::span<const std::byte>, const std::string&,
                                      const DecodeOptions&);
constexpr std::pair<std::string_view, Decoder> kDecoders[] = {
    {"PNG", internal::decode_png},   {"JPEG", internal::decode_jpeg},
    {"WebP", internal::decode_webp}, {"GIF", internal::decode_gif},
    {"BMP", internal::decode_bmp},   {"TIFF", internal::decode_tiff}};

void blend_over_white(const std::vector<uint8_t>& alpha, Image& image) {
  uint8_t* to = image.pixels.data();
  for (const uint8_t a : alpha)
    for (int c = 0; c < 3; ++c, ++to) *to = internal::over_white(*to, a);
}

}  // namespace

Alpha parse_alpha(const std::string& text) {
  if (text == "official") return Alpha::Official;
  if (text == "white") return Alpha::White;
  fail("expected official or white, found '{}'", text);
}

namespace internal {

void Decoded::keep_alpha(const DecodeOptions& options) {
  if (options.picture.alpha != Alpha::Official) alpha.assign(image.pixels.size() / 3, 255);
}

void check_image_size(uint64_t width, uint64_t height, const std::string& name,
                      const DecodeOptions& options) {
  if (width == 0 || height == 0) fail("{}: the picture is empty ({} x {})", name, width, height);
  if (width > kMaxImageSide || height > kMaxImageSide)
    fail("{}: the picture has {} x {} pixels; at most {} a side are allowed", name, width, height,
         kMaxImageSide);
  if (width * height > static_cast<uint64_t>(options.max_pixels))
    fail("{}: the picture has {} x {} = {} pixels, more than the limit of {}", name, width, height,
         width * height, options.max_pixels);
}

}  // namespace internal

Image decode_image(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options) {
  REPRISE_CHECK(options.max_pixels > 0, "max_pixels {}", options.max_pixels);
  if (bytes.empty()) fail("{}: the file is empty; expected a picture ({})", name, kSupported);
  if (bytes.size() > options.max_file_bytes)
    fail("{}: has {} bytes, more than the limit of {}", name, bytes.size(), options.max_file_bytes);
  const std::string_view format =
      recognise({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const auto decoder = std::find_if(std::begin(kDecoders), std::end(kDecoders),
                                    [&](const auto& entry) { return entry.first == format; });
  if (format.empty())
    fail("{}: not a picture in a known format; supported are {}", name, kSupported);
  if (decoder == std::end(kDecoders))
    fail("{}: {} pictures are not supported; supported are {}", name, format, kSupported);
  internal::Decoded found = decoder->second(bytes, name, options);
  if (!found.alpha.empty()) blend_over_white(found.alpha, found.image);
  return options.picture.apply_exif || found.always_turned
             ? apply_orientation(std::move(found.image), found.orientation)
             : std::move(found.image);
}

Image load_image(const std::filesystem::path& path, const DecodeOptions& options) {
  const std::string data = read_file(path, options.max_file_bytes);
  return decode_image(std::as_bytes(std::span(data)), path.string(), options);
}

}  // namespace reprise
