// Helpers of the format tests: data files, temporary folders, and attempts that must end in Error.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "formats/weights.h"
#include "support/error_of.h"
#include "support/paths.h"

namespace reprise {

using test::error_of;

inline std::filesystem::path data_path(const std::string& name) {
  return test::data_dir() / "formats" / name;
}

// Of all tensors, in file order.
inline std::vector<std::string> names_of(const WeightFile& file) {
  std::vector<std::string> names;
  for (const TensorView& tensor : file.tensors()) names.push_back(tensor.name);
  return names;
}

class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::temp_directory_path() /
            ("reprise-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    write_file_atomically(path_ / name, bytes);
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

// The bytes of a number as they lie in a little-endian file.
template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

// Opens every prefix of the file and every single-byte corruption (each byte xored with 0x01, 0x80,
// 0xff). `open` must throw Error or succeed and then survive reading; anything else (a crash,
// another exception) fails the test. Every proper prefix must be refused when `whole_only`.
template <class Open>
void attack(const std::filesystem::path& source, Open open, bool whole_only = true) {
  const std::string bytes = read_file(source);
  const TempFolder folder;
  const auto target = folder.write(source.filename().string(), bytes);
  ASSERT_EQ(error_of([&] { open(target); }), "");
  // Changed in place: thousands of new files would take long on some file systems.
  std::fstream file(target, std::ios::in | std::ios::out | std::ios::binary);
  size_t refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    const auto put = [&](char value) {
      file.seekp(static_cast<std::streamoff>(at)).put(value).flush();
      ASSERT_TRUE(file.good());
    };
    for (const int mask : {0x01, 0x80, 0xff}) {
      put(static_cast<char>(bytes[at] ^ mask));
      refused += error_of([&] { open(target); }) != "";
    }
    put(bytes[at]);
  }
  EXPECT_GT(refused, 0u);
  ASSERT_EQ(error_of([&] { open(target); }), "");
  for (size_t length = bytes.size(); length-- > 0;) {
    std::filesystem::resize_file(target, length);
    const std::string error = error_of([&] { open(target); });
    if (!whole_only) continue;
    ASSERT_NE(error, "") << "a prefix of " << length << " bytes was accepted";
    ASSERT_NE(error.find(target.string()), std::string::npos) << error;
  }
}

}  // namespace reprise
