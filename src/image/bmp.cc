// Windows bitmaps, by a reader of our own: Debian has no library for them alone. Formats: Microsoft,
// "Bitmap Storage" and "Bitmap Compression" (BITMAPCOREHEADER to BITMAPV5HEADER).
#include <algorithm>
#include <array>
#include <bit>

#include "base/byte_reader.h"
#include "base/error.h"
#include "image/codecs.h"

namespace reprise::internal {
namespace {

enum Compression : uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3, kAlphaBitFields = 6 };

// One channel of a pixel of 16 or 32 bits, to 8 bits.
struct Field {
  uint32_t mask = 0;
  uint8_t of(uint32_t pixel) const {
    const uint64_t highest = mask >> std::countr_zero(mask);
    const uint64_t value = (pixel & mask) >> std::countr_zero(mask);
    return static_cast<uint8_t>(value * 255 / highest);
  }
};

struct Header {
  int64_t width = 0, height = 0;
  bool from_top = false;
  int bits = 0;
  uint32_t compression = kRaw;
  std::array<uint32_t, 4> masks = {};  // red, green, blue, alpha; 0: none
  std::array<std::array<uint8_t, 3>, 256> palette = {};
};

class BmpReader {
 public:
  BmpReader(std::span<const std::byte> bytes, const std::string& name)
      : bytes_(bytes), name_(name), where_(name + ": not a valid BMP"), in_(bytes, where_) {}

  Header read_header() {
    in_.take(10, "the file's header");
    pixels_ = in_.read<uint32_t>("the file's header");
    const auto size = in_.read<uint32_t>("the size of the header");
    constexpr uint32_t kSizes[] = {12, 40, 52, 56, 64, 108, 124};
    if (std::find(std::begin(kSizes), std::end(kSizes), size) == std::end(kSizes))
      fail("{}: BMP with a header of {} bytes; expected 12, 40, 52, 56, 64, 108 or 124", name_,
           size);
    Header header;
    uint32_t colours = 0;
    if (size == 12) {
      header.width = in_.read<uint16_t>("the width");
      header.height = in_.read<uint16_t>("the height");
      in_.take(2, "the planes");
      header.bits = in_.read<uint16_t>("the bits of a pixel");
    } else {
      header.width = in_.read<int32_t>("the width");
      header.height = in_.read<int32_t>("the height");
      in_.take(2, "the planes");
      header.bits = in_.read<uint16_t>("the bits of a pixel");
      header.compression = in_.read<uint32_t>("the compression");
      in_.take(12, "the resolution");
      colours = in_.read<uint32_t>("the number of colours");
      in_.take(4, "the important colours");
      read_masks(header, size);
    }
    header.from_top = header.height < 0;
    header.height = std::abs(header.height);
    if (header.width < 0) fail("{}: a width of {}", where_, header.width);
    check_kind(header, size);
    if (header.bits <= 8) read_palette(header, size == 12 ? 3 : 4, colours);
    return header;
  }

  // The rows as they are stored, to RGB (and alpha).
  void read_rows(const Header& header, Decoded& result) {
    const auto width = static_cast<size_t>(header.width);
    const size_t stride = (width * static_cast<size_t>(header.bits) + 31) / 32 * 4;
    in_ = at_pixels();
    for (int64_t y = 0; y < header.height; ++y) {
      const auto row = in_.take(stride, "a row of pixels");
      put_row(header, reinterpret_cast<const uint8_t*>(row.data()), y, result);
    }
  }

  // Run lengths: pixels nobody mentions have colour 0.
  void read_runs(const Header& header, Decoded& result) {
    for (int64_t y = 0; y < header.height; ++y)
      for (int64_t x = 0; x < header.width; ++x) put_colour(header, x, y, 0, result);
    in_ = at_pixels();
    const auto next = [&] { return in_.read<uint8_t>("a run of pixels"); };
    const bool four = header.compression == kRle4;
    int64_t x = 0, y = 0;
    const auto put = [&](uint8_t colour) {
      if (x < header.width && y < header.height) put_colour(header, x, y, colour, result);
      ++x;
    };
    while (y < header.height) {
      const uint8_t count = next(), value = next();
      if (count > 0) {
        for (int i = 0; i < count; ++i) put(!four ? value : (i % 2 == 0 ? value >> 4 : value & 15));
      } else if (value == 0) {  // the end of the row
        x = 0;
        ++y;
      } else if (value == 1) {  // the end of the picture
        return;
      } else if (value == 2) {
        x += next();
        y += next();
      } else {
        const int stored = four ? (value + 1) / 2 : value;
        for (int i = 0; i < stored; ++i) {
          const uint8_t byte = next();
          if (!four) {
            put(byte);
            continue;
          }
          put(byte >> 4);
          if (2 * i + 1 < value) put(byte & 15);
        }
        if (stored % 2 != 0) next();  // to a whole word
      }
    }
  }

 private:
  void read_masks(Header& header, uint32_t size) {
    const bool fields = header.compression == kBitFields || header.compression == kAlphaBitFields;
    const bool with_alpha = size >= 56 || header.compression == kAlphaBitFields;
    uint32_t left = size - 40;
    // They follow a header of 40 bytes and are part of longer ones. An OS/2 header (64) has none.
    if (size != 64 && (fields || size > 40)) {
      const size_t count = with_alpha ? 4 : 3;
      for (size_t i = 0; i < count; ++i) {
        const auto mask = in_.read<uint32_t>("the masks of the colours");
        if (fields) header.masks[i] = mask;
        left -= std::min<uint32_t>(left, 4);
      }
    }
    in_.take(left, "the header");
  }

  void check_kind(Header& header, uint32_t size) const {
    const int bits = header.bits;
    switch (header.compression) {
      case kRaw:
        if (bits == 16) header.masks = {0x7c00, 0x3e0, 0x1f, 0};
        if (bits == 32) header.masks = {0xff0000, 0xff00, 0xff, 0};
        if (bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16 || bits == 24 ||
            bits == 32)
          return;
        break;
      case kRle8:
      case kRle4:
        if (bits == (header.compression == kRle8 ? 8 : 4)) return;
        break;
      case kBitFields:
      case kAlphaBitFields:
        if (size == 64) break;  // OS/2 calls another compression 3
        if (bits == 24 && header.masks[0] == 0xff0000 && header.masks[1] == 0xff00 &&
            header.masks[2] == 0xff)
          return;
        if (bits != 16 && bits != 32) break;
        if (bits == 32 && header.masks == std::array<uint32_t, 4>{})
          header.masks = {0xff0000, 0xff00, 0xff, 0xff000000};
        for (size_t i = 0; i < 4; ++i) {
          const uint32_t mask = header.masks[i];
          const uint32_t ones = mask >> (mask == 0 ? 0 : std::countr_zero(mask));
          if ((i < 3 && mask == 0) || (ones & (ones + 1)) != 0 || (bits == 16 && mask > 0xffff))
            fail("{}: a mask of {:#x} for a channel of {} bits a pixel", where_, mask, bits);
        }
        return;
      default:
        break;
    }
    fail(
        "{}: BMP with {} bits a pixel and compression {}; expected 1, 2, 4, 8, 16, 24 or 32 bits without, 8 or 4 bits with "
        "run lengths (1, 2), or 16 or 32 bits with masks (3, 6)",
        name_, bits, header.compression);
  }

  void read_palette(Header& header, size_t entry, uint32_t colours) {
    const uint32_t all = uint32_t{1} << header.bits;
    // Before the pixels there may be fewer than the header says.
    const size_t room = pixels_ > in_.position() ? (pixels_ - in_.position()) / entry : all;
    const size_t count =
        std::min<size_t>({colours == 0 ? all : colours, all, pixels_ == 0 ? all : room});
    for (size_t i = 0; i < count; ++i) {
      const auto stored = in_.take(entry, "the palette");
      for (size_t c = 0; c < 3; ++c) header.palette[i][c] = static_cast<uint8_t>(stored[2 - c]);
    }
    if (pixels_ == 0) pixels_ = static_cast<uint32_t>(in_.position());
  }

  ByteReader at_pixels() const {
    ByteReader reader(bytes_, where_);
    reader.take(pixels_ == 0 ? in_.position() : pixels_, "the pixels");
    return reader;
  }

  static int64_t row_of(const Header& header, int64_t stored) {
    return header.from_top ? stored : header.height - 1 - stored;
  }

  static void put_colour(const Header& header, int64_t x, int64_t y, uint8_t colour,
                         Decoded& result) {
    const auto& rgb = header.palette[colour];
    std::copy(rgb.begin(), rgb.end(),
              result.image.row(static_cast<int>(row_of(header, y))) + 3 * x);
  }

  static void put_row(const Header& header, const uint8_t* in, int64_t stored, Decoded& result) {
    const int64_t y = row_of(header, stored);
    uint8_t* out = result.image.row(static_cast<int>(y));
    if (header.bits <= 8) {
      const int bits = header.bits, highest = (1 << bits) - 1;
      for (int64_t x = 0; x < header.width; ++x) {
        const int64_t bit = x * bits;
        put_colour(header, x, stored,
                   static_cast<uint8_t>(in[bit / 8] >> (8 - bits - bit % 8) & highest), result);
      }
      return;
    }
    if (header.bits == 24) {
      for (int64_t x = 0; x < header.width; ++x, in += 3, out += 3)
        for (int c = 0; c < 3; ++c) out[c] = in[2 - c];
      return;
    }
    for (int64_t x = 0; x < header.width; ++x, out += 3) {
      uint32_t pixel = 0;
      for (int byte = 0; byte < header.bits / 8; ++byte) pixel |= uint32_t{*in++} << 8 * byte;
      for (size_t c = 0; c < 3; ++c) out[c] = Field{header.masks[c]}.of(pixel);
      if (header.masks[3] != 0 && !result.alpha.empty())
        result.alpha[static_cast<size_t>(y * header.width + x)] = Field{header.masks[3]}.of(pixel);
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  const std::string where_;
  ByteReader in_;
  uint32_t pixels_ = 0;  // where they begin; 0: behind the headers
};

}  // namespace

Decoded decode_bmp(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options) {
  BmpReader reader(bytes, name);
  const Header header = reader.read_header();
  check_image_size(static_cast<uint64_t>(header.width), static_cast<uint64_t>(header.height), name,
                   options);
  Decoded result;
  result.image = Image(static_cast<int>(header.width), static_cast<int>(header.height));
  result.keep_alpha(options);
  if (header.compression == kRle8 || header.compression == kRle4)
    reader.read_runs(header, result);
  else
    reader.read_rows(header, result);
  return result;
}

}  // namespace reprise::internal
