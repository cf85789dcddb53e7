// Reads little-endian values from a span, with every read checked against its end. For headers of
// binary formats; tensor data is never copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace reprise {

class ByteReader {
 public:
  // `where` begins error messages and must outlive the reader.
  ByteReader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(&where) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  const std::string& where() const { return *where_; }

  // The next n bytes. `what` says what is being read, for the message.
  std::span<const std::byte> take(uint64_t n, std::string_view what) {
    if (n > remaining())
      fail("{}: {} at byte {} needs {} bytes, only {} are left", *where_, what, position_, n,
           remaining());
    const auto part = bytes_.subspan(position_, n);
    position_ += n;
    return part;
  }
  std::string_view take_text(uint64_t n, std::string_view what) {
    const auto part = take(n, what);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  template <class T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string* where_;
  size_t position_ = 0;
};

}  // namespace reprise
