#include <tiffio.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "image/codecs.h"

namespace reprise::internal {
namespace {

// The file in memory, as libtiff wants to see it.
struct Source {
  std::span<const std::byte> bytes;
  uint64_t position = 0;
};
tmsize_t read_source(thandle_t handle, void* to, tmsize_t count) {
  auto* source = static_cast<Source*>(handle);
  if (source->position >= source->bytes.size() || count <= 0) return 0;
  const size_t n =
      std::min<size_t>(static_cast<size_t>(count), source->bytes.size() - source->position);
  std::memcpy(to, source->bytes.data() + source->position, n);
  source->position += n;
  return static_cast<tmsize_t>(n);
}
tmsize_t write_source(thandle_t, void*, tmsize_t) { return 0; }
toff_t seek_source(thandle_t handle, toff_t offset, int whence) {
  auto* source = static_cast<Source*>(handle);
  if (whence == SEEK_CUR) offset += source->position;
  if (whence == SEEK_END) offset += source->bytes.size();
  return source->position = offset;
}
int close_source(thandle_t) { return 0; }
toff_t size_source(thandle_t handle) { return static_cast<Source*>(handle)->bytes.size(); }

// The first thing libtiff says is wrong.
int keep_error(TIFF*, void* user, const char*, const char* format, va_list values) {
  char message[200];
  std::vsnprintf(message, sizeof message, format, values);
  auto* kept = static_cast<std::string*>(user);
  if (kept->empty()) *kept = message;
  return 1;  // nobody else is told
}
int no_warning(TIFF*, void*, const char*, const char*, va_list) { return 1; }

struct Layout {
  uint32_t width = 0, height = 0;
  uint16_t bits = 1, samples = 1, format = SAMPLEFORMAT_UINT;
  uint16_t photometric = PHOTOMETRIC_MINISWHITE;  // what a file that doesn't say so means
  uint16_t compression = COMPRESSION_NONE, planar = PLANARCONFIG_CONTIG, orientation = 1;
  uint16_t extra_count = 0, extra = EXTRASAMPLE_UNSPECIFIED;  // the first one's meaning
  bool rgba = false;  // pixels come through libtiff's own conversion

  // Channels of colour.
  uint16_t colours() const {
    if (photometric == PHOTOMETRIC_SEPARATED) return 4;
    return photometric == PHOTOMETRIC_RGB || photometric == PHOTOMETRIC_YCBCR ? 3 : 1;
  }
  bool has_alpha() const {
    if (samples <= colours() || photometric == PHOTOMETRIC_SEPARATED) return false;
    // RGB of four samples whose fourth nobody explains is transparency for every program.
    if (extra_count == 0) return photometric == PHOTOMETRIC_RGB;
    return extra != EXTRASAMPLE_UNSPECIFIED;
  }
  bool premultiplied() const { return extra_count > 0 && extra == EXTRASAMPLE_ASSOCALPHA; }
};

class TiffReader {
 public:
  TiffReader(std::span<const std::byte> bytes, const std::string& name)
      : name_(name), source_{bytes}, file_(nullptr, TIFFClose) {
    const std::unique_ptr<TIFFOpenOptions, decltype(&TIFFOpenOptionsFree)> options(
        TIFFOpenOptionsAlloc(), TIFFOpenOptionsFree);
    if (!options) fail("{}: libtiff can't be started", name_);
    TIFFOpenOptionsSetErrorHandlerExtR(options.get(), keep_error, &message_);
    TIFFOpenOptionsSetWarningHandlerExtR(options.get(), no_warning, nullptr);
    file_.reset(TIFFClientOpenExt("", "rm", &source_, read_source, write_source, seek_source,
                                  close_source, size_source, nullptr, nullptr, options.get()));
    require(file_ != nullptr);
  }

  void require(bool ok) const {
    if (!ok)
      fail("{}: not a valid TIFF: {}", name_,
           message_.empty() ? "the file is damaged or cut short" : message_);
  }

  Layout read_layout() {
    TIFF* file = file_.get();
    Layout layout;
    require(TIFFGetField(file, TIFFTAG_IMAGEWIDTH, &layout.width) &&
            TIFFGetField(file, TIFFTAG_IMAGELENGTH, &layout.height));
    TIFFGetFieldDefaulted(file, TIFFTAG_BITSPERSAMPLE, &layout.bits);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLESPERPIXEL, &layout.samples);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLEFORMAT, &layout.format);
    TIFFGetFieldDefaulted(file, TIFFTAG_COMPRESSION, &layout.compression);
    TIFFGetFieldDefaulted(file, TIFFTAG_PLANARCONFIG, &layout.planar);
    TIFFGetFieldDefaulted(file, TIFFTAG_ORIENTATION, &layout.orientation);
    TIFFGetField(file, TIFFTAG_PHOTOMETRIC, &layout.photometric);
    uint16_t* extra = nullptr;
    // Not the default, which can't be told from "unspecified" written down.
    TIFFGetField(file, TIFFTAG_EXTRASAMPLES, &layout.extra_count, &extra);
    if (layout.extra_count > 0 && extra != nullptr) layout.extra = extra[0];
    check(layout);
    return layout;
  }

  // The samples of colour, and of transparency where it is kept, as 8 bits: [height, width, kept].
  // Grey and palettes of fewer bits are left as they are.
  std::vector<uint8_t> read_samples(const Layout& layout, uint16_t kept) {
    TIFF* file = file_.get();
    std::vector<uint8_t> samples(size_t{layout.width} * layout.height * kept);
    const bool tiled = TIFFIsTiled(file) != 0;
    uint32_t part_width = layout.width, part_height = layout.height;
    if (tiled) {
      require(TIFFGetField(file, TIFFTAG_TILEWIDTH, &part_width) &&
              TIFFGetField(file, TIFFTAG_TILELENGTH, &part_height));
    } else {
      TIFFGetFieldDefaulted(file, TIFFTAG_ROWSPERSTRIP, &part_height);
      part_height = std::min(part_height, layout.height);
    }
    require(part_width > 0 && part_height > 0);
    const bool separate = layout.planar == PLANARCONFIG_SEPARATE;
    const uint16_t planes = separate ? kept : 1;
    const uint16_t together = separate ? 1 : layout.samples;  // samples of a pixel in a part
    const tmsize_t size = tiled ? TIFFTileSize(file) : TIFFStripSize(file);
    const tmsize_t stride = tiled ? TIFFTileRowSize(file) : TIFFScanlineSize(file);
    // A part is no larger than the picture may be.
    if (size <= 0 || stride <= 0 || static_cast<uint64_t>(size) > kMostPartBytes)
      fail("{}: TIFF with parts of {} bytes; at most {} are allowed", name_, size, kMostPartBytes);
    std::vector<uint8_t> part(static_cast<size_t>(size));
    for (uint16_t plane = 0; plane < planes; ++plane)
      for (uint32_t y = 0; y < layout.height; y += part_height)
        for (uint32_t x = 0; x < layout.width; x += part_width) {
          const uint32_t rows = std::min(part_height, layout.height - y);
          const uint32_t columns = std::min(part_width, layout.width - x);
          const tmsize_t got =
              tiled
                  ? TIFFReadEncodedTile(file, TIFFComputeTile(file, x, y, 0, plane), part.data(),
                                        size)
                  : TIFFReadEncodedStrip(file, TIFFComputeStrip(file, y, plane), part.data(), size);
          require(message_.empty() && got >= stride * static_cast<tmsize_t>(rows));
          for (uint32_t row = 0; row < rows; ++row)
            unpack(layout, part.data() + static_cast<size_t>(stride) * row, columns, together,
                   separate ? 1 : kept,
                   samples.data() + (size_t{y + row} * layout.width + x) * kept + plane, kept);
        }
    return samples;
  }

  // Through libtiff's own conversion: [height, width, 4], as stored.
  std::vector<uint32_t> read_rgba(const Layout& layout) {
    std::vector<uint32_t> pixels(size_t{layout.width} * layout.height);
    require(TIFFReadRGBAImageOriented(file_.get(), layout.width, layout.height, pixels.data(),
                                      layout.orientation, 1) != 0 &&
            message_.empty());
    return pixels;
  }

  // [256][3], by index.
  std::vector<uint8_t> read_palette(const Layout& layout) {
    uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
    require(TIFFGetField(file_.get(), TIFFTAG_COLORMAP, &red, &green, &blue) != 0);
    std::vector<uint8_t> palette(256 * 3);
    for (size_t i = 0; i < size_t{1} << layout.bits; ++i) {
      palette[3 * i] = static_cast<uint8_t>(red[i] >> 8);
      palette[3 * i + 1] = static_cast<uint8_t>(green[i] >> 8);
      palette[3 * i + 2] = static_cast<uint8_t>(blue[i] >> 8);
    }
    return palette;
  }

 private:
  static constexpr uint64_t kMostPartBytes = 1'000'000'000;

  void check(Layout& layout) {
    if (!TIFFIsCODECConfigured(layout.compression) || layout.compression == COMPRESSION_OJPEG)
      fail("{}: TIFF with compression {} is not supported", name_, layout.compression);
    if (layout.planar != PLANARCONFIG_CONTIG && layout.planar != PLANARCONFIG_SEPARATE)
      fail("{}: TIFF with planar configuration {}; expected 1 or 2", name_, layout.planar);
    if (layout.orientation < 1 || layout.orientation > 8) layout.orientation = 1;
    const bool grey = layout.photometric == PHOTOMETRIC_MINISWHITE ||
                      layout.photometric == PHOTOMETRIC_MINISBLACK;
    const bool palette = layout.photometric == PHOTOMETRIC_PALETTE;
    const bool colour = layout.photometric == PHOTOMETRIC_RGB ||
                        layout.photometric == PHOTOMETRIC_SEPARATED ||
                        layout.photometric == PHOTOMETRIC_YCBCR;
    if (!grey && !palette && !colour)
      fail(
          "{}: TIFF with photometric interpretation {}; expected 0 or 1 (grey), 2 (RGB), 3 (palette), 5 (CMYK) or 6 (YCbCr)",
          name_, layout.photometric);
    constexpr uint16_t kMostExtra = 4;
    if (layout.samples < layout.colours() || layout.samples > layout.colours() + kMostExtra)
      fail("{}: TIFF with {} samples a pixel and photometric interpretation {}", name_,
           layout.samples, layout.photometric);
    const bool few = layout.bits == 1 || layout.bits == 2 || layout.bits == 4;
    const bool known = layout.bits == 8 || (layout.bits == 16 && !palette) ||
                       (few && !colour && layout.samples == 1);
    if (layout.format != SAMPLEFORMAT_UINT && layout.format != SAMPLEFORMAT_VOID)
      fail("{}: TIFF with numbers of format {}; expected 1 (unsigned integers)", name_,
           layout.format);
    if (!known)
      fail(
          "{}: TIFF with {} samples of {} bits; expected 8 or 16 bits, or 1, 2 or 4 bits of one sample of grey or of a palette",
          name_, layout.samples, layout.bits);
    if (layout.photometric != PHOTOMETRIC_YCBCR) return;
    if (layout.compression == COMPRESSION_JPEG && layout.planar == PLANARCONFIG_CONTIG)
      TIFFSetField(file_.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    else
      layout.rgba = true;
  }

  // A row of `columns` pixels of `together` samples, of which the first `kept` are taken; those of
  // pixel i go to to + i * step.
  static void unpack(const Layout& layout, const uint8_t* in, uint32_t columns, uint16_t together,
                     uint16_t kept, uint8_t* to, size_t step) {
    if (layout.bits < 8) {
      const uint32_t bits = layout.bits;
      for (uint32_t i = 0; i < columns; ++i, to += step) {
        const size_t bit = size_t{i} * bits;
        *to = static_cast<uint8_t>((in[bit / 8] >> (8 - bits - bit % 8)) & ((1u << bits) - 1));
      }
      return;
    }
    // Grey of 16 bits alone is clipped, as Pillow's mode I;16 is; colour keeps the high byte.
    const bool clip = layout.bits == 16 && layout.samples == 1;
    for (uint32_t i = 0; i < columns; ++i, to += step)
      for (uint16_t s = 0; s < kept; ++s) {
        const size_t at = size_t{i} * together + s;
        if (layout.bits == 8) {
          to[s] = in[at];
          continue;
        }
        uint16_t value;  // in this machine's order
        std::memcpy(&value, in + 2 * at, 2);
        to[s] = static_cast<uint8_t>(clip ? std::min<uint16_t>(value, 255) : value >> 8);
      }
  }

  const std::string& name_;
  Source source_;
  std::string message_;
  std::unique_ptr<TIFF, void (*)(TIFF*)> file_;
};

// Colour stored multiplied by its alpha, as it was before.
uint8_t divide_alpha(uint8_t colour, uint8_t alpha) {
  return alpha == 0 ? 0 : static_cast<uint8_t>(std::min(255, 255 * colour / alpha));
}

}  // namespace

Decoded decode_tiff(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options) {
  TiffReader reader(bytes, name);
  const Layout layout = reader.read_layout();
  check_image_size(layout.width, layout.height, name, options);
  Decoded result{.orientation = layout.orientation, .always_turned = true};
  Image& image = result.image;
  image = Image(static_cast<int>(layout.width), static_cast<int>(layout.height));
  uint8_t* out = image.pixels.data();
  if (layout.rgba) {
    for (const uint32_t pixel : reader.read_rgba(layout)) {
      *out++ = static_cast<uint8_t>(TIFFGetR(pixel));
      *out++ = static_cast<uint8_t>(TIFFGetG(pixel));
      *out++ = static_cast<uint8_t>(TIFFGetB(pixel));
    }
    return result;
  }
  const uint16_t colours = layout.colours();
  const bool alpha =
      layout.has_alpha() && (options.picture.alpha != Alpha::Official || layout.premultiplied());
  const auto kept = static_cast<uint16_t>(colours + (alpha ? 1 : 0));
  const std::vector<uint8_t> samples = reader.read_samples(layout, kept);
  if (alpha) result.keep_alpha(options);

  std::vector<uint8_t> palette(256 * 3);  // by the value of the one sample
  if (layout.photometric == PHOTOMETRIC_PALETTE) {
    palette = reader.read_palette(layout);
  } else if (colours == 1) {
    const int highest = layout.bits >= 8 ? 255 : (1 << layout.bits) - 1;
    // Pillow takes 16-bit grey as it is, whichever end is white.
    const bool inverted = layout.photometric == PHOTOMETRIC_MINISWHITE && layout.bits <= 8;
    for (int i = 0; i <= highest; ++i)
      std::fill_n(palette.begin() + 3 * i, 3,
                  static_cast<uint8_t>((inverted ? highest - i : i) * 255 / highest));
  }
  const uint8_t* in = samples.data();
  for (size_t i = 0; i < size_t{layout.width} * layout.height; ++i, in += kept, out += 3) {
    if (colours == 1) {
      std::memcpy(out, palette.data() + 3 * size_t{in[0]}, 3);
    } else if (colours == 3) {
      std::memcpy(out, in, 3);
    } else {
      const int white = 255 - in[3];
      for (int c = 0; c < 3; ++c) out[c] = static_cast<uint8_t>(white - multiply_255(in[c], white));
    }
    if (!alpha) continue;
    if (layout.premultiplied() && colours == 3)
      for (int c = 0; c < 3; ++c) out[c] = divide_alpha(out[c], in[colours]);
    if (!result.alpha.empty()) result.alpha[i] = in[colours];
  }
  return result;
}

}  // namespace reprise::internal
