#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "image/codecs.h"

namespace reprise::internal {
namespace {

struct Source {
  const std::byte* data;
  size_t size;
  size_t position;
};

int read_source(GifFileType* file, GifByteType* to, int count) {
  auto* source = static_cast<Source*>(file->UserData);
  const size_t n = std::min(static_cast<size_t>(count), source->size - source->position);
  std::memcpy(to, source->data + source->position, n);
  source->position += n;
  return static_cast<int>(n);
}

void close(GifFileType* file) {
  int error = 0;
  DGifCloseFile(file, &error);
}

class GifReader {
 public:
  GifReader(std::span<const std::byte> bytes, const std::string& name)
      : name_(name), source_{bytes.data(), bytes.size(), 0}, file_(nullptr, close) {
    int error = 0;
    file_.reset(DGifOpen(&source_, read_source, &error));
    if (!file_) refuse(error);
  }

  GifFileType& file() { return *file_; }
  void require(int status) const {
    if (status != GIF_OK) refuse(file_->Error);
  }
  // Comes to the first picture; returns the colour that is transparent in it, -1 where none is.
  int find_picture() {
    int transparent = -1;
    while (true) {
      GifRecordType type = UNDEFINED_RECORD_TYPE;
      require(DGifGetRecordType(file_.get(), &type));
      if (type == IMAGE_DESC_RECORD_TYPE) {
        require(DGifGetImageDesc(file_.get()));
        return transparent;
      }
      if (type != EXTENSION_RECORD_TYPE) fail("{}: not a valid GIF: no picture in it", name_);
      int code = 0;
      GifByteType* block = nullptr;  // its length, then its bytes
      require(DGifGetExtension(file_.get(), &code, &block));
      while (block != nullptr) {
        GraphicsControlBlock control;
        if (code == GRAPHICS_EXT_FUNC_CODE &&
            DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
          transparent = control.TransparentColor;
        require(DGifGetExtensionNext(file_.get(), &block));
      }
    }
  }

 private:
  [[noreturn]] void refuse(int error) const {
    const char* why = GifErrorString(error);
    fail("{}: not a valid GIF: {}", name_, why != nullptr ? why : "the file is damaged");
  }

  const std::string& name_;
  Source source_;
  std::unique_ptr<GifFileType, void (*)(GifFileType*)> file_;
};

}  // namespace

Decoded decode_gif(std::span<const std::byte> bytes, const std::string& name,
                   const DecodeOptions& options) {
  GifReader reader(bytes, name);
  GifFileType& file = reader.file();
  const int transparent = reader.find_picture();
  const GifImageDesc& frame = file.Image;
  if (frame.Left < 0 || frame.Top < 0 || frame.Width <= 0 || frame.Height <= 0)
    fail("{}: not a valid GIF: a frame of {} x {} at {}, {}", name, frame.Width, frame.Height,
         frame.Left, frame.Top);
  // A canvas that is too small for its frame grows.
  const int width = std::max(file.SWidth, frame.Left + frame.Width);
  const int height = std::max(file.SHeight, frame.Top + frame.Height);
  check_image_size(static_cast<uint64_t>(width), static_cast<uint64_t>(height), name, options);

  const ColorMapObject* colours = frame.ColorMap != nullptr ? frame.ColorMap : file.SColorMap;
  uint8_t palette[256][3] = {};
  for (int i = 0; i < 256; ++i) {
    if (colours == nullptr) {
      std::fill_n(palette[i], 3, static_cast<uint8_t>(i));
    } else if (i < colours->ColorCount) {
      palette[i][0] = colours->Colors[i].Red;
      palette[i][1] = colours->Colors[i].Green;
      palette[i][2] = colours->Colors[i].Blue;
    }
  }

  Decoded result;
  Image& image = result.image;
  image = Image(width, height);
  result.keep_alpha(options);
  const auto set = [&](int x, int y, int colour) {
    std::copy(palette[colour], palette[colour] + 3, image.row(y) + size_t{3} * x);
    if (!result.alpha.empty())
      result.alpha[static_cast<size_t>(y) * width + x] = colour == transparent ? 0 : 255;
  };
  if (frame.Width != width || frame.Height != height)
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) set(x, y, std::max(transparent, 0));
  std::vector<GifPixelType> row(static_cast<size_t>(frame.Width));
  const auto read_row = [&](int y) {
    reader.require(DGifGetLine(&file, row.data(), frame.Width));
    for (int x = 0; x < frame.Width; ++x) set(frame.Left + x, frame.Top + y, row[x]);
  };
  if (frame.Interlace) {
    constexpr int kFirst[] = {0, 4, 2, 1}, kStep[] = {8, 8, 4, 2};  // GIF89a, appendix E
    for (int pass = 0; pass < 4; ++pass)
      for (int y = kFirst[pass]; y < frame.Height; y += kStep[pass]) read_row(y);
  } else {
    for (int y = 0; y < frame.Height; ++y) read_row(y);
  }
  return result;
}

}  // namespace reprise::internal
