#include "engine/picture.h"

#include "base/error.h"
#include "base/file.h"
#include "image/decode.h"

namespace reprise {

Picture::Picture(std::string name, std::string bytes) {
  const size_t most = DecodeOptions().max_file_bytes;
  if (bytes.size() > most) {
    fail("{}: has {} bytes, more than the limit of {}", name, bytes.size(), most);
  }
  const Sha256 digest = reprise::sha256(bytes);
  data_ = std::make_shared<const Data>(Data{std::move(name), std::move(bytes), digest});
}

Picture Picture::read(const std::filesystem::path& path) {
  return {path.string(), read_file(path, DecodeOptions().max_file_bytes)};
}

}  // namespace reprise
