#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

// jpeglib.h needs FILE declared first.
#include <jerror.h>
#include <jpeglib.h>

#include "base/error.h"
#include "image/codecs.h"
#include "image/exif.h"

namespace reprise::internal {
namespace {

// A progressive file costs work over the whole picture for every scan, however short the scan is;
// encoders write about ten.
constexpr int kMaxScans = 100;

// All that the functions around setjmp touch; plain data.
struct JpegState {
  jpeg_decompress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX + 32];
};

JpegState* state_of(j_common_ptr jpeg) { return static_cast<JpegState*>(jpeg->client_data); }

void on_error(j_common_ptr jpeg) {
  JpegState* s = state_of(jpeg);
  jpeg->err->format_message(jpeg, s->message);
  std::longjmp(s->jump, 1);
}

// Warnings (negative level) that mean lost or invented pixels are errors here.
void on_message(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  switch (jpeg->err->msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_BOGUS_ICC:
    case JWRN_EXTRANEOUS_DATA:  // padding between segments, common in camera files
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
    case JWRN_TOO_MUCH_DATA:
      return;
    default:
      on_error(jpeg);
  }
}

void on_progress(j_common_ptr jpeg) {
  auto* decompress = reinterpret_cast<j_decompress_ptr>(jpeg);
  if (decompress->input_scan_number <= kMaxScans) return;
  JpegState* s = state_of(jpeg);
  std::snprintf(s->message, sizeof s->message, "more than %d scans", kMaxScans);
  std::longjmp(s->jump, 1);
}

bool start(JpegState* s, const unsigned char* data, unsigned long size) {
  if (setjmp(s->jump)) return false;
  jpeg_create_decompress(&s->jpeg);
  s->jpeg.client_data = s;
  jpeg_save_markers(&s->jpeg, JPEG_APP0 + 1, 0xFFFF);
  jpeg_mem_src(&s->jpeg, data, size);
  jpeg_read_header(&s->jpeg, TRUE);
  return true;
}

// Defaults otherwise: the accurate integer DCT and smooth chroma upsampling, as Pillow uses them.
bool start_rows(JpegState* s, J_COLOR_SPACE out) {
  if (setjmp(s->jump)) return false;
  s->jpeg.out_color_space = out;
  s->progress.progress_monitor = on_progress;
  s->jpeg.progress = &s->progress;
  jpeg_start_decompress(&s->jpeg);
  return true;
}

bool read_row(JpegState* s, JSAMPROW row) {
  if (setjmp(s->jump)) return false;
  jpeg_read_scanlines(&s->jpeg, &row, 1);
  return true;
}

bool finish(JpegState* s) {
  if (setjmp(s->jump)) return false;
  jpeg_finish_decompress(&s->jpeg);
  return true;
}

class JpegReader {
 public:
  explicit JpegReader(const std::string& name) : name_(name) {
    std::memset(&state_, 0, sizeof state_);
    state_.jpeg.err = jpeg_std_error(&state_.errors);
    state_.jpeg.client_data = &state_;  // for errors before jpeg_create_decompress is through
    state_.errors.error_exit = on_error;
    state_.errors.emit_message = on_message;
  }
  ~JpegReader() { jpeg_destroy_decompress(&state_.jpeg); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  JpegState* state() { return &state_; }
  void require(bool ok) const {
    if (!ok) fail("{}: not a valid JPEG: {}", name_, state_.message);
  }

 private:
  JpegState state_;
  const std::string& name_;
};

// Adobe's files store inverted ink: 255 is none. in: [width, 4], out: [width, 3].
void convert_inverted_cmyk(const uint8_t* in, int width, uint8_t* out) {
  for (int x = 0; x < width; ++x, in += 4, out += 3)
    for (int c = 0; c < 3; ++c)
      out[c] = static_cast<uint8_t>(in[3] - multiply_255(255 - in[c], in[3]));
}

int find_orientation(const jpeg_decompress_struct& jpeg) {
  constexpr char kExif[] = "Exif\0";  // six bytes with the closing zero
  for (auto* m = jpeg.marker_list; m != nullptr; m = m->next)
    if (m->marker == JPEG_APP0 + 1 && m->data_length >= sizeof kExif &&
        std::memcmp(m->data, kExif, sizeof kExif) == 0)
      return exif_orientation(
          std::as_bytes(std::span(m->data, m->data_length).subspan(sizeof kExif)));
  return 1;
}

}  // namespace

Decoded decode_jpeg(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options) {
  JpegReader reader(name);
  JpegState* s = reader.state();
  reader.require(start(s, reinterpret_cast<const unsigned char*>(bytes.data()),
                       static_cast<unsigned long>(bytes.size())));
  check_image_size(s->jpeg.image_width, s->jpeg.image_height, name, options);
  Decoded result{.orientation = find_orientation(s->jpeg)};
  const int components = s->jpeg.num_components;
  if (components != 1 && components != 3 && components != 4)
    fail("{}: JPEG with {} components; expected 1 (grey), 3 (colour) or 4 (CMYK)", name,
         components);
  reader.require(
      start_rows(s, components == 1 ? JCS_GRAYSCALE : (components == 3 ? JCS_RGB : JCS_CMYK)));

  Image& image = result.image;
  image = Image(static_cast<int>(s->jpeg.image_width), static_cast<int>(s->jpeg.image_height));
  std::vector<uint8_t> row(components == 3 ? 0 : size_t{4} * image.width);
  for (int y = 0; y < image.height; ++y) {
    uint8_t* out = image.row(y);
    reader.require(read_row(s, components == 3 ? out : row.data()));
    if (components == 1)
      for (int x = 0; x < image.width; ++x, out += 3) out[0] = out[1] = out[2] = row[x];
    if (components == 4) convert_inverted_cmyk(row.data(), image.width, out);
  }
  reader.require(finish(s));
  return result;
}

}  // namespace reprise::internal
