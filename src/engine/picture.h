// A picture as it is given to a prompt: the bytes of its file (image/decode.h), wherever they came from,
// known by their SHA-256. Cheap to copy: copies share the bytes. Not decoded here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/sha256.h"
#include "image/decode.h"

namespace reprise {

class Picture {
 public:
  // `name`: what messages call it. Throws Error naming it when there are more bytes than a picture
  // may have (DecodeOptions::max_file_bytes).
  Picture(std::string name, std::string bytes);
  // Named by its path. Throws Error naming it when the file can't be read, or is too large: then it
  // isn't read at all.
  static Picture read(const std::filesystem::path& path);

  const std::string& name() const { return data_->name; }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(data_->bytes)); }
  const Sha256& sha256() const { return data_->sha256; }

 private:
  struct Data {
    std::string name, bytes;
    Sha256 sha256;
  };
  std::shared_ptr<const Data> data_;
};

// What a model's rows of a picture are known by: equal keys mean equal rows.
struct PictureKey {
  Sha256 sha256{};         // of the file's bytes
  PictureOptions options;  // how it is read
  bool operator==(const PictureKey&) const = default;
};

}  // namespace reprise
