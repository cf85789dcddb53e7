#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "image/codecs.h"
#include "image/exif.h"

namespace reprise::internal {
namespace {

struct Source {
  const std::byte* data;
  size_t size;
  size_t position;
};

// All that the functions around setjmp touch; plain data.
struct PngState {
  png_structp png = nullptr;
  png_infop info = nullptr;
  Source source{};
  char message[160] = "";
};

void on_error(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::snprintf(state->message, sizeof state->message, "%s", message);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp png, png_bytep to, size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->size - source->position) png_error(png, "the file is cut short");
  std::memcpy(to, source->data + source->position, count);
  source->position += count;
}

// Chunks that can't change the bytes given out (colour management, text, ...): libpng skips them
// instead of parsing untrusted data for nothing.
constexpr const char* kSkippedChunks[] = {"bKGD", "cHRM", "gAMA", "hIST", "iCCP", "iTXt",
                                          "oFFs", "pCAL", "pHYs", "sBIT", "sCAL", "sPLT",
                                          "sRGB", "tEXt", "tIME", "zTXt"};

bool start(PngState* s, bool with_alpha) {
  s->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
  if (s->png != nullptr) s->info = png_create_info_struct(s->png);
  if (s->info == nullptr) {
    std::snprintf(s->message, sizeof s->message, "libpng can't be started");
    return false;
  }
  if (setjmp(png_jmpbuf(s->png))) return false;
  png_set_read_fn(s->png, &s->source, on_read);
  png_set_user_limits(s->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_image_size decides
  for (const char* chunk : kSkippedChunks)
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER,
                                reinterpret_cast<png_const_bytep>(chunk), 1);
  if (!with_alpha)
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER,
                                reinterpret_cast<png_const_bytep>("tRNS"), 1);
  png_read_info(s->png, s->info);
  return true;
}

bool prepare_rows(PngState* s) {
  if (setjmp(png_jmpbuf(s->png))) return false;
  png_set_packing(s->png);  // 1, 2, 4 bits: one value a byte
  png_set_check_for_invalid_index(s->png, -1);
  png_start_read_image(s->png);
  return true;
}

bool read_row(PngState* s, png_bytep row) {
  if (setjmp(png_jmpbuf(s->png))) return false;
  png_read_row(s->png, row, nullptr);
  return true;
}

bool finish(PngState* s) {
  if (setjmp(png_jmpbuf(s->png))) return false;
  png_read_end(s->png, s->info);
  return true;
}

bool get_exif(PngState* s, png_bytep* data, png_uint_32* size) {
  if (setjmp(png_jmpbuf(s->png))) return false;
  return png_get_eXIf_1(s->png, s->info, size, data) != 0;
}

class PngReader {
 public:
  PngReader(std::span<const std::byte> bytes, const std::string& name) : name_(name) {
    state_.source = {bytes.data(), bytes.size(), 0};
  }
  ~PngReader() { png_destroy_read_struct(&state_.png, &state_.info, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  PngState* state() { return &state_; }
  void require(bool ok) const {
    if (!ok) fail("{}: not a valid PNG: {}", name_, state_.message);
  }

 private:
  PngState state_;
  const std::string& name_;
};

// One row, or one row of an interlace pass, from what libpng gives to RGB.
class RowConverter {
 public:
  explicit RowConverter(const PngState& s)
      : colour_(png_get_color_type(s.png, s.info)), bits_(png_get_bit_depth(s.png, s.info)) {
    if (colour_ == PNG_COLOR_TYPE_PALETTE) {
      png_colorp colours = nullptr;
      int count = 0;
      png_get_PLTE(s.png, s.info, &colours, &count);
      for (int i = 0; i < count; ++i) {
        palette_[i][0] = colours[i].red;
        palette_[i][1] = colours[i].green;
        palette_[i][2] = colours[i].blue;
      }
    } else if (colour_ == PNG_COLOR_TYPE_GRAY && bits_ <= 8) {
      const int highest = (1 << bits_) - 1;
      for (int i = 0; i <= highest; ++i)
        palette_[i][0] = palette_[i][1] = palette_[i][2] = static_cast<uint8_t>(i * 255 / highest);
    }
    read_transparency(s);
  }

  // in: `count` pixels; the alpha of pixel i goes to to[i * stride].
  void convert_alpha(const uint8_t* in, int count, uint8_t* to, size_t stride) const {
    const int sample = bits_ == 16 ? 2 : 1;
    const int channels = colour_ == PNG_COLOR_TYPE_RGB_ALPHA    ? 4
                         : colour_ == PNG_COLOR_TYPE_RGB        ? 3
                         : colour_ == PNG_COLOR_TYPE_GRAY_ALPHA ? 2
                                                                : 1;
    for (int i = 0; i < count; ++i, to += stride, in += channels * sample) {
      if (colour_ == PNG_COLOR_TYPE_PALETTE)
        *to = palette_alpha_[in[0]];
      else if (channels == 2 || channels == 4)
        *to = in[(channels - 1) * sample];
      else if (has_key_)
        *to = std::memcmp(in, key_, static_cast<size_t>(channels * sample)) == 0 ? 0 : 255;
    }
  }

  // in: `count` pixels; pixel i goes to to + i * stride.
  void convert(const uint8_t* in, int count, uint8_t* to, size_t stride) const {
    const int sample = bits_ == 16 ? 2 : 1;  // bytes; 16-bit samples are big-endian
    switch (colour_) {
      case PNG_COLOR_TYPE_GRAY:
        if (bits_ == 16) {
          for (int i = 0; i < count; ++i, to += stride)
            to[0] = to[1] = to[2] = in[2 * i] != 0 ? 255 : in[2 * i + 1];
          return;
        }
        [[fallthrough]];
      case PNG_COLOR_TYPE_PALETTE:
        for (int i = 0; i < count; ++i, to += stride) std::memcpy(to, palette_[in[i]], 3);
        return;
      case PNG_COLOR_TYPE_GRAY_ALPHA:
        for (int i = 0; i < count; ++i, to += stride) to[0] = to[1] = to[2] = in[2 * sample * i];
        return;
      default: {
        const int pixel = sample * (colour_ == PNG_COLOR_TYPE_RGB_ALPHA ? 4 : 3);  // bytes
        for (int i = 0; i < count; ++i, to += stride, in += pixel) {
          to[0] = in[0];
          to[1] = in[sample];
          to[2] = in[2 * sample];
        }
      }
    }
  }

 private:
  // The chunk tRNS: an alpha for colours of the palette, or the one colour that is transparent.
  void read_transparency(const PngState& s) {
    std::memset(palette_alpha_, 255, sizeof palette_alpha_);
    png_bytep alpha = nullptr;
    int count = 0;
    png_color_16p key = nullptr;
    if (!png_get_tRNS(s.png, s.info, &alpha, &count, &key)) return;
    if (colour_ == PNG_COLOR_TYPE_PALETTE) {
      if (alpha != nullptr)
        std::memcpy(palette_alpha_, alpha, static_cast<size_t>(std::min(count, 256)));
      return;
    }
    if (key == nullptr) return;
    has_key_ = true;
    const bool grey = colour_ == PNG_COLOR_TYPE_GRAY;
    const png_uint_16 samples[] = {grey ? key->gray : key->red, key->green, key->blue};
    uint8_t* to = key_;
    for (int i = 0; i < (grey ? 1 : 3); ++i) {
      if (bits_ == 16) *to++ = static_cast<uint8_t>(samples[i] >> 8);
      *to++ = static_cast<uint8_t>(samples[i]);
    }
  }

  int colour_;
  int bits_;
  uint8_t palette_[256][3] = {};  // also the values of grey up to 8 bits
  uint8_t palette_alpha_[256];
  bool has_key_ = false;
  uint8_t key_[6] = {};  // as a pixel of this colour is stored
};

}  // namespace

Decoded decode_png(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options) {
  PngReader reader(bytes, name);
  PngState* s = reader.state();
  reader.require(start(s, options.picture.alpha != Alpha::Official));
  const png_uint_32 width = png_get_image_width(s->png, s->info);
  const png_uint_32 height = png_get_image_height(s->png, s->info);
  check_image_size(width, height, name, options);
  const bool interlaced = png_get_interlace_type(s->png, s->info) == PNG_INTERLACE_ADAM7;
  const RowConverter converter(*s);
  reader.require(prepare_rows(s));

  Decoded result;
  Image& image = result.image;
  image = Image(static_cast<int>(width), static_cast<int>(height));
  result.keep_alpha(options);
  // libpng writes whole rows, also for the narrower ones of an interlace pass; 8 bytes are the most
  // that a pixel can take.
  std::vector<uint8_t> row(size_t{width} * 8);
  // `columns` pixels of the row, from column `first` of row y on, `step` columns apart.
  const auto spread = [&](int columns, int y, int first, int step) {
    reader.require(read_row(s, row.data()));
    converter.convert(row.data(), columns, image.row(y) + 3 * first, size_t{3} * step);
    if (!result.alpha.empty())
      converter.convert_alpha(row.data(), columns,
                              result.alpha.data() + static_cast<size_t>(y) * width + first,
                              static_cast<size_t>(step));
  };
  if (!interlaced) {
    for (int y = 0; y < image.height; ++y) spread(image.width, y, 0, 1);
  } else {
    // Each pass is spread over the picture as it comes (PNG specification, 8.2, Adam7), so that no
    // copy of the picture in the file's pixel format is needed. libpng leaves out empty passes.
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; ++pass) {
      const int columns = static_cast<int>(PNG_PASS_COLS(width, pass));
      const int rows = static_cast<int>(PNG_PASS_ROWS(height, pass));
      if (columns == 0) continue;
      for (int r = 0; r < rows; ++r)
        spread(columns, static_cast<int>(PNG_ROW_FROM_PASS_ROW(r, pass)),
               static_cast<int>(PNG_PASS_START_COL(pass)), 1 << PNG_PASS_COL_SHIFT(pass));
    }
  }
  reader.require(finish(s));  // checks the end of the data; eXIf may stand there

  png_bytep exif = nullptr;
  png_uint_32 exif_bytes = 0;
  if (get_exif(s, &exif, &exif_bytes))
    result.orientation = exif_orientation(std::as_bytes(std::span(exif, exif_bytes)));
  return result;
}

}  // namespace reprise::internal
