#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "base/error.h"
#include "image/codecs.h"
#include "image/exif.h"

namespace reprise::internal {
namespace {

using Demuxer = std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)>;
using Frame = std::unique_ptr<WebPIterator, decltype(&WebPDemuxReleaseIterator)>;
using Chunk = std::unique_ptr<WebPChunkIterator, decltype(&WebPDemuxReleaseChunkIterator)>;

int find_orientation(const WebPDemuxer* file) {
  WebPChunkIterator chunk{};
  if (!WebPDemuxGetChunk(file, "EXIF", 1, &chunk)) return 1;
  const Chunk owner(&chunk, WebPDemuxReleaseChunkIterator);
  std::span<const std::byte> exif = std::as_bytes(std::span(chunk.chunk.bytes, chunk.chunk.size));
  // Some programs write a JPEG's prefix before it.
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  if (exif.size() >= kPrefix.size() &&
      std::equal(kPrefix.begin(), kPrefix.end(), reinterpret_cast<const char*>(exif.data())))
    exif = exif.subspan(kPrefix.size());
  return exif_orientation(exif);
}

}  // namespace

Decoded decode_webp(std::span<const std::byte> bytes, const std::string& name,
                    const DecodeOptions& options) {
  const WebPData data{reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  const Demuxer file(WebPDemux(&data), WebPDemuxDelete);
  if (!file) fail("{}: not a valid WebP: the file is damaged or cut short", name);
  const uint32_t width = WebPDemuxGetI(file.get(), WEBP_FF_CANVAS_WIDTH);
  const uint32_t height = WebPDemuxGetI(file.get(), WEBP_FF_CANVAS_HEIGHT);
  check_image_size(width, height, name, options);
  WebPIterator frame{};
  if (!WebPDemuxGetFrame(file.get(), 1, &frame))
    fail("{}: not a valid WebP: no picture in it", name);
  const Frame owner(&frame, WebPDemuxReleaseIterator);
  // The library has checked it; what is written below depends on it.
  if (frame.x_offset < 0 || frame.y_offset < 0 || frame.width <= 0 || frame.height <= 0 ||
      static_cast<uint32_t>(frame.x_offset) + static_cast<uint32_t>(frame.width) > width ||
      static_cast<uint32_t>(frame.y_offset) + static_cast<uint32_t>(frame.height) > height)
    fail("{}: not a valid WebP: a frame outside of its canvas", name);

  Decoded result{.orientation = find_orientation(file.get())};
  Image& image = result.image;
  image = Image(static_cast<int>(width), static_cast<int>(height));
  result.keep_alpha(options);
  if (!result.alpha.empty()) result.alpha.assign(result.alpha.size(), 0);  // outside of the frame
  const auto decode = [&](WEBP_CSP_MODE mode, uint8_t* to, size_t stride, size_t room) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) fail("{}: libwebp can't be started", name);
    config.output.colorspace = mode;
    config.output.is_external_memory = 1;
    config.output.u.RGBA = {to, static_cast<int>(stride), room};
    if (WebPGetFeatures(frame.fragment.bytes, frame.fragment.size, &config.input) !=
            VP8_STATUS_OK ||
        config.input.width != frame.width || config.input.height != frame.height ||
        WebPDecode(frame.fragment.bytes, frame.fragment.size, &config) != VP8_STATUS_OK)
      fail("{}: not a valid WebP: the picture's data is damaged or cut short", name);
  };
  const size_t first =
      static_cast<size_t>(frame.y_offset) * width + static_cast<size_t>(frame.x_offset);
  if (result.alpha.empty()) {
    const size_t at = 3 * first;
    decode(MODE_RGB, image.pixels.data() + at, size_t{3} * width, image.pixels.size() - at);
    return result;
  }
  std::vector<uint8_t> rgba(size_t{4} * static_cast<size_t>(frame.width) *
                            static_cast<size_t>(frame.height));
  decode(MODE_RGBA, rgba.data(), size_t{4} * static_cast<size_t>(frame.width), rgba.size());
  const uint8_t* in = rgba.data();
  for (int y = 0; y < frame.height; ++y)
    for (int x = 0; x < frame.width; ++x, in += 4) {
      const size_t at = first + static_cast<size_t>(y) * width + static_cast<size_t>(x);
      std::copy(in, in + 3, image.pixels.data() + 3 * at);
      result.alpha[at] = in[3];
    }
  return result;
}

}  // namespace reprise::internal
