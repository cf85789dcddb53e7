#include "image/encode.h"

// jpeglib.h needs stdio's declarations before it.
#include <cstdio>
// clang-format off
#include <jpeglib.h>
// clang-format on
#include <png.h>

#include <csetjmp>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace reprise {
namespace {

void check_picture(const Image& image) {
  if (image.width < 1 || image.height < 1)
    fail("a picture of {} x {} pixels can't be written", image.width, image.height);
  REPRISE_CHECK(image.pixels.size() == static_cast<size_t>(image.width) * image.height * 3);
}

struct JpegWriter {
  jpeg_compress_struct jpeg;
  jpeg_error_mgr errors;
  jmp_buf jump;
  unsigned char* bytes;  // malloc'ed by libjpeg
  unsigned long size;
  char message[JMSG_LENGTH_MAX];
};

void on_error(j_common_ptr jpeg) {
  auto* writer = static_cast<JpegWriter*>(jpeg->client_data);
  jpeg->err->format_message(jpeg, writer->message);
  std::longjmp(writer->jump, 1);
}
void on_message(j_common_ptr, int) {}

// No C++ objects here: errors leave by longjmp.
bool write_jpeg(JpegWriter* w, const uint8_t* pixels, int width, int height, int quality) {
  if (setjmp(w->jump)) return false;
  jpeg_create_compress(&w->jpeg);
  w->jpeg.client_data = w;
  jpeg_mem_dest(&w->jpeg, &w->bytes, &w->size);
  w->jpeg.image_width = static_cast<JDIMENSION>(width);
  w->jpeg.image_height = static_cast<JDIMENSION>(height);
  w->jpeg.input_components = 3;
  w->jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&w->jpeg);
  jpeg_set_quality(&w->jpeg, quality, TRUE);
  jpeg_start_compress(&w->jpeg, TRUE);
  while (w->jpeg.next_scanline < w->jpeg.image_height) {
    auto* row = const_cast<JSAMPROW>(pixels + size_t{3} * width * w->jpeg.next_scanline);
    jpeg_write_scanlines(&w->jpeg, &row, 1);
  }
  jpeg_finish_compress(&w->jpeg);
  return true;
}

}  // namespace

std::string encode_png(const Image& image) {
  check_picture(image);
  png_image png;
  std::memset(&png, 0, sizeof png);
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(png), '\0');
  png_alloc_size_t size = bytes.size();
  if (!png_image_write_to_memory(&png, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr))
    fail("a picture of {} x {} pixels can't be written as PNG: {}", image.width, image.height,
         png.message);
  bytes.resize(size);
  return bytes;
}

std::string encode_jpeg(const Image& image, int quality) {
  check_picture(image);
  REPRISE_CHECK(quality >= 1 && quality <= 100, "JPEG quality {}", quality);
  JpegWriter writer;
  std::memset(&writer, 0, sizeof writer);
  writer.jpeg.err = jpeg_std_error(&writer.errors);
  writer.jpeg.client_data = &writer;
  writer.errors.error_exit = on_error;
  writer.errors.emit_message = on_message;
  const bool done = write_jpeg(&writer, image.pixels.data(), image.width, image.height, quality);
  std::string bytes(reinterpret_cast<const char*>(writer.bytes), done ? writer.size : 0);
  jpeg_destroy_compress(&writer.jpeg);
  std::free(writer.bytes);
  if (!done)
    fail("a picture of {} x {} pixels can't be written as JPEG: {}", image.width, image.height,
         writer.message);
  return bytes;
}

}  // namespace reprise
