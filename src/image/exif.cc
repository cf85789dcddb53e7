#include "image/exif.h"

#include <cstdint>
#include <utility>

#include "base/error.h"

namespace reprise {
namespace {

// Reads of either byte order that say when they would leave the span.
class TiffReader {
 public:
  explicit TiffReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool read_header() {
    if (bytes_.size() < 8) return false;
    const auto b0 = static_cast<char>(bytes_[0]), b1 = static_cast<char>(bytes_[1]);
    if (b0 != b1 || (b0 != 'I' && b0 != 'M')) return false;
    big_endian_ = b0 == 'M';
    uint32_t magic = 0;
    return read(2, 2, &magic) && magic == 42;
  }

  // An unsigned number of 1, 2 or 4 bytes.
  bool read(uint64_t offset, int size, uint32_t* value) const {
    if (offset > bytes_.size() || bytes_.size() - offset < static_cast<uint64_t>(size))
      return false;
    *value = 0;
    for (int i = 0; i < size; ++i) {
      const auto byte = static_cast<uint32_t>(bytes_[offset + i]);
      *value |= byte << 8 * (big_endian_ ? size - 1 - i : i);
    }
    return true;
  }

 private:
  std::span<const std::byte> bytes_;
  bool big_endian_ = false;
};

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint64_t kEntryBytes = 12;  // tag (2), type (2), count (4), value or offset (4)

// Bytes of a TIFF field type that can hold an orientation (BYTE, SHORT, LONG), else 0.
int integer_bytes(uint32_t type) {
  switch (type) {
    case 1:
      return 1;
    case 3:
      return 2;
    case 4:
      return 4;
    default:
      return 0;
  }
}

}  // namespace

int exif_orientation(std::span<const std::byte> tiff) {
  TiffReader reader(tiff);
  uint32_t directory = 0, entries = 0;
  if (!reader.read_header() || !reader.read(4, 4, &directory) ||
      !reader.read(directory, 2, &entries))
    return 1;
  for (uint32_t i = 0; i < entries; ++i) {
    const uint64_t entry = uint64_t{directory} + 2 + i * kEntryBytes;
    uint32_t tag = 0, type = 0, count = 0, value = 0;
    if (!reader.read(entry, 2, &tag)) return 1;
    if (tag != kOrientationTag) continue;
    if (!reader.read(entry + 2, 2, &type) || !reader.read(entry + 4, 4, &count) || count != 1)
      return 1;
    const int size = integer_bytes(type);
    if (size == 0 || !reader.read(entry + 8, size, &value)) return 1;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image apply_orientation(Image image, int orientation) {
  REPRISE_CHECK(orientation >= 1 && orientation <= 8, "orientation {}", orientation);
  if (orientation == 1) return image;
  const bool swaps_sides = orientation >= 5;
  const int w = image.width, h = image.height;
  Image out(swaps_sides ? h : w, swaps_sides ? w : h);
  for (int y = 0; y < out.height; ++y) {
    uint8_t* to = out.row(y);
    for (int x = 0; x < out.width; ++x, to += 3) {
      int sx = x, sy = y;  // the stored pixel shown at (x, y)
      switch (orientation) {
        case 2:  // mirrored left to right
          sx = w - 1 - x;
          break;
        case 3:  // half a turn
          sx = w - 1 - x, sy = h - 1 - y;
          break;
        case 4:  // mirrored top to bottom
          sy = h - 1 - y;
          break;
        case 5:  // mirrored at the main diagonal
          sx = y, sy = x;
          break;
        case 6:  // to be turned clockwise by a quarter
          sx = y, sy = h - 1 - x;
          break;
        case 7:  // mirrored at the other diagonal
          sx = w - 1 - y, sy = h - 1 - x;
          break;
        case 8:  // to be turned counter-clockwise by a quarter
          sx = w - 1 - y, sy = x;
          break;
      }
      const uint8_t* from = image.row(sy) + static_cast<size_t>(sx) * 3;
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  return out;
}

}  // namespace reprise
