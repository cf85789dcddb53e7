// Decoding against Pillow (tests/data/image/make.py), and damaged, hostile and foreign files.
#include "image/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "image/exif.h"
#include "support/paths.h"
#include "unit/image/hex_sha256.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::hex_sha256;

const std::string kFolder = test::data_dir().string() + "/image/";

std::string read(const std::string& name) { return read_file(kFolder + "decode/" + name); }

Image decode(const std::string& data, const DecodeOptions& options = {}) {
  return decode_image(std::as_bytes(std::span(data)), "photo", options);
}

// The message of the Error that decoding throws; "" when it succeeds.
std::string error_of(const std::string& data, const DecodeOptions& options = {}) {
  try {
    decode(data, options);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

bool turned_always(const std::string& name) { return name.ends_with(".tif"); }

TEST(Decode, EqualsPillow) {
  const auto cases = nlohmann::json::parse(read_file(kFolder + "decode.json"));
  ASSERT_GE(cases.size(), 180u);
  for (const auto& [name, want] : cases.items()) {
    SCOPED_TRACE(name);
    const Image image = load_image(kFolder + "decode/" + name);
    EXPECT_EQ(image.width, want["size"][0]);
    EXPECT_EQ(image.height, want["size"][1]);
    EXPECT_EQ(image.channels, 3);
    EXPECT_EQ(hex_sha256(image.pixels), want["sha256"]);
    const Image upright = load_image(kFolder + "decode/" + name, {.picture = {.apply_exif = true}});
    EXPECT_EQ(upright.width, want["upright_size"][0]);
    EXPECT_EQ(upright.height, want["upright_size"][1]);
    EXPECT_EQ(hex_sha256(upright.pixels), want["upright_sha256"]);
    const Image white =
        load_image(kFolder + "decode/" + name, {.picture = {.alpha = Alpha::White}});
    EXPECT_EQ(hex_sha256(white.pixels),
              want.contains("white_sha256")
                  ? want["white_sha256"]
                  : want[turned_always(name) ? "upright_sha256" : "sha256"]);
  }
}

TEST(Decode, EveryTruncationIsAnError) {
  for (const char* name : {"rgb8_9x8_interlaced.png",
                           "palette4.png",
                           "exif_6_after.png",
                           "exif_6.jpg",
                           "grey_progressive.jpg",
                           "rgb_420_restart.jpg",
                           "rgb_420_progressive.jpg",
                           "cmyk.jpg",
                           "rgb_lossy.webp",
                           "rgba_lossless.webp",
                           "exif_6.webp",
                           "moving.webp",
                           "palette5.gif",
                           "palette8_interlaced.gif",
                           "palette4.bmp",
                           "fields_bgra.bmp",
                           "rle8.bmp",
                           "rle4.bmp",
                           "strips.tif",
                           "pillow_tiff_lzw.tif",
                           "pillow_jpeg.tif",
                           "palette4.tif"}) {
    const std::string data = read(name);
    ASSERT_EQ(error_of(data), "") << name;
    // The last bytes of these only say that no more follows.
    const std::string_view kind = name;
    const size_t end = data.size() - (kind.ends_with(".gif") ? 1 : kind.starts_with("rle") ? 2 : 0);
    for (size_t n = 0; n < end; ++n)
      ASSERT_THAT(error_of(data.substr(0, n)), HasSubstr("photo: ")) << name << " cut to " << n;
  }
}

TEST(Decode, EveryDamagedByteIsAnErrorOrAPictureOfTheSize) {
  for (const char* name : {"rgb8_9x8_interlaced.png",
                           "palette4.png",
                           "exif_6_before.png",
                           "exif_6.jpg",
                           "grey_progressive.jpg",
                           "ycck.jpg",
                           "rgb_2x3.webp",
                           "small_frame.webp",
                           "rgba_lossless.webp",
                           "palette3.gif",
                           "small_frame_transparent.gif",
                           "palette4.bmp",
                           "fields_565.bmp",
                           "rle8.bmp",
                           "rle4.bmp",
                           "strips.tif",
                           "tiles.tif",
                           "planes.tif",
                           "palette2.tif",
                           "pillow_grey_jpeg.tif",
                           "pillow_group4.tif",
                           "pillow_ycbcr.tif"}) {
    const std::string data = read(name);
    int errors = 0;
    for (size_t i = 0; i < data.size(); ++i) {
      for (const char flip : {'\x01', '\x80', '\xff'}) {
        std::string damaged = data;
        damaged[i] = static_cast<char>(damaged[i] ^ flip);
        try {
          // A damaged size field may ask for any size; small limits keep the test quick.
          const Image image =
              decode(damaged, {.max_pixels = 100'000, .picture = {.apply_exif = true}});
          ASSERT_EQ(image.pixels.size(), size_t{3} * image.width * image.height);
        } catch (const Error&) {
          ++errors;
        }
      }
    }
    EXPECT_GT(errors, 0) << name;
  }
}

TEST(Decode, LimitsAreCheckedFirst) {
  const std::string png = read("rgb8.png"), jpeg = read("rgb_444.jpg");  // 13 x 11, 45 x 37
  EXPECT_EQ(error_of(png, {.max_pixels = 143}), "");
  EXPECT_THAT(error_of(png, {.max_pixels = 142}),
              AllOf(HasSubstr("13 x 11"), HasSubstr("limit of 142")));
  EXPECT_EQ(error_of(jpeg, {.max_pixels = 1665}), "");
  EXPECT_THAT(error_of(jpeg, {.max_pixels = 1664}), HasSubstr("45 x 37"));
  EXPECT_THAT(error_of(png, {.max_file_bytes = png.size() - 1}), HasSubstr("bytes, more than"));
  EXPECT_THROW(load_image(kFolder + "decode/rgb8.png", {.max_file_bytes = 10}), Error);
  for (const char* name : {"palette8.gif", "palette8.bmp", "rle8.bmp", "rgb8_le.tif"}) {  // 13 x 11
    EXPECT_EQ(error_of(read(name), {.max_pixels = 143}), "") << name;
    EXPECT_THAT(error_of(read(name), {.max_pixels = 142}), HasSubstr("limit of 142")) << name;
  }
  EXPECT_EQ(error_of(read("rgb_lossy.webp"), {.max_pixels = 1665}), "");
  EXPECT_THAT(error_of(read("rgb_lossy.webp"), {.max_pixels = 1664}), HasSubstr("limit of 1664"));
}

// PNG with a valid checksum in its header but nothing more than the start of its data.
std::string png_header(uint32_t width, uint32_t height) {
  std::string ihdr = "IHDR";
  for (const uint32_t side : {width, height})
    for (int shift = 24; shift >= 0; shift -= 8) ihdr += static_cast<char>(side >> shift);
  ihdr += std::string("\x08\x02\0\0\0", 5);
  uint32_t crc = ~0u;
  for (const char c : ihdr) {
    crc ^= static_cast<uint8_t>(c);
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0u);
  }
  std::string out = "\x89PNG\r\n\x1a\n" + std::string("\0\0\0\x0d", 4) + ihdr;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(~crc >> shift);
  return out + std::string("\0\0\xff\xff", 4) + "IDAT";
}

TEST(Decode, HostileSizes) {
  EXPECT_THAT(error_of(png_header(0x7fffffff, 0x7fffffff)), HasSubstr("at most 65535"));
  EXPECT_THAT(error_of(png_header(65536, 1)), HasSubstr("65536 x 1"));
  EXPECT_THAT(error_of(png_header(65535, 65535)), HasSubstr("limit of 100000000"));
  EXPECT_THAT(error_of(png_header(0, 5)), HasSubstr("not a valid PNG"));
  EXPECT_THAT(error_of(png_header(0x80000000, 5)), HasSubstr("not a valid PNG"));
  EXPECT_THAT(error_of(png_header(9000, 9000)), HasSubstr("cut short"));
  std::string jpeg = read("rgb_444.jpg");
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xdc\xff\xdc");  // 65500 x 65500, libjpeg's own largest
  EXPECT_THAT(error_of(jpeg), HasSubstr("65500 x 65500"));
  jpeg.replace(frame + 5, 4, std::string(4, '\0'));
  EXPECT_THAT(error_of(jpeg), HasSubstr("photo: "));
}

// Headers of small files that ask for large pictures: refused before there is memory for them.
TEST(Decode, HostileSizesOfOtherFormats) {
  std::string gif = read("palette8.gif");
  gif.replace(6, 4, "\xff\xff\xff\xff");
  EXPECT_THAT(error_of(gif), HasSubstr("limit of 100000000"));
  std::string bmp = read("rgb24_header40.bmp");
  bmp.replace(18, 4, std::string("\xff\xff\0\0", 4)).replace(22, 4, std::string("\xff\xff\0\0", 4));
  EXPECT_THAT(error_of(bmp), HasSubstr("limit of 100000000"));
  bmp.replace(22, 4, std::string("\0\0\0\x80", 4));  // the one height whose sign can't be turned
  EXPECT_THAT(error_of(bmp), HasSubstr("at most 65535"));
  bmp.replace(18, 4, std::string("\0\x20\0\0", 4)).replace(22, 4, std::string("\0\x20\0\0", 4));
  EXPECT_THAT(error_of(bmp), HasSubstr("a row of pixels"));
  std::string webp = read("small_frame.webp");
  webp.replace(24, 6, "\xff\xff\xff\xff\xff\xff");
  EXPECT_THAT(error_of(webp), HasSubstr("photo: "));
}

TEST(Decode, WhatAFileCannotSay) {
  std::string tiff = read("grey8.tif");
  const size_t bits = tiff.find(std::string("\x02\x01\x03\0\x01\0\0\0\x08\0", 10));
  ASSERT_NE(bits, std::string::npos);
  tiff[bits + 8] = 12;
  EXPECT_THAT(error_of(tiff), HasSubstr("samples of 12 bits"));
  std::string bmp = read("rgb24_header40.bmp");
  bmp[30] = 4;
  EXPECT_THAT(error_of(bmp), HasSubstr("24 bits a pixel and compression 4"));
  bmp[14] = 41;
  EXPECT_THAT(error_of(bmp), HasSubstr("header of 41 bytes"));
  EXPECT_THAT(error_of(read("palette8.gif").substr(0, 13) + ";"), HasSubstr("GIF"));
}

TEST(Decode, AlphaIsNamedInErrors) {
  EXPECT_EQ(parse_alpha("white"), Alpha::White);
  EXPECT_EQ(parse_alpha("official"), Alpha::Official);
  EXPECT_THROW(parse_alpha("black"), Error);
}

TEST(Decode, EndlessProgressiveScans) {
  const Image image = decode(read("90_scans.jpg"));
  EXPECT_EQ(image.width, 8);
  EXPECT_EQ(image.pixels, std::vector<uint8_t>(8 * 8 * 3, 128));
  EXPECT_THAT(error_of(read("190_scans.jpg")), HasSubstr("more than 100 scans"));
}

TEST(Decode, OtherFormatsAreNamedWithTheSupportedOnes) {
  const std::pair<const char*, std::string> files[] = {
      {"HEIC", std::string("\0\0\0\x1c", 4) + "ftypheic"},
      {"JPEG XL", "\xff\x0a"},
      {"AVIF", std::string("\0\0\0\x1c", 4) + "ftypavif"},
  };
  for (const auto& [format, data] : files)
    EXPECT_THAT(error_of(data), AllOf(HasSubstr("photo: "), HasSubstr(format),
                                      HasSubstr("PNG, JPEG, WebP, GIF, BMP and TIFF")));
  EXPECT_THAT(error_of("just some text"), HasSubstr("not a picture in a known format"));
  EXPECT_THAT(error_of(""), HasSubstr("empty"));
  EXPECT_THAT(error_of("\xff"), HasSubstr("PNG, JPEG, WebP, GIF, BMP and TIFF"));
}

TEST(Decode, FilesAreNamedInErrors) {
  EXPECT_THAT([] { load_image(kFolder + "nothing.png"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("nothing.png")));
  EXPECT_THAT([] { load_image(kFolder + "decode.json"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("decode.json")));
  EXPECT_THROW(load_image(kFolder), Error);  // a folder
}

// Little-endian TIFF with one field in its first directory.
std::string tiff_field(uint16_t tag, uint16_t type, uint32_t count, uint32_t value) {
  std::string out("II*\0\x08\0\0\0\x01\0", 10);
  const auto put = [&](uint32_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(v >> 8 * i);
  };
  put(tag, 2), put(type, 2), put(count, 4), put(value, 4);
  return out;
}

int orientation_of(const std::string& tiff) {
  return exif_orientation(std::as_bytes(std::span(tiff)));
}

TEST(Exif, Orientation) {
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 3, 1, 6)), 6);
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 4, 1, 8)), 8);
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 1, 1, 3)), 3);
  EXPECT_EQ(orientation_of(tiff_field(0x0113, 3, 1, 6)), 1);  // another tag
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 2, 1, 6)), 1);  // text
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 3, 2, 6)), 1);  // two values
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 3, 1, 0)), 1);
  EXPECT_EQ(orientation_of(tiff_field(0x0112, 3, 1, 9)), 1);
}

TEST(Exif, DamageMeansUpright) {
  const std::string whole = tiff_field(0x0112, 3, 1, 6);
  // Whole but for the unused half of the value.
  for (size_t n = 0; n < whole.size() - 2; ++n) EXPECT_EQ(orientation_of(whole.substr(0, n)), 1);
  std::string far = whole;
  far.replace(4, 4, "\xfe\xff\xff\xff");  // the directory beyond the end
  EXPECT_EQ(orientation_of(far), 1);
  std::string many = tiff_field(0x0113, 3, 1, 6);
  many[8] = many[9] = '\xff';  // 65,535 entries promised
  EXPECT_EQ(orientation_of(many), 1);
}

}  // namespace
}  // namespace reprise
