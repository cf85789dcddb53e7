// Files: read-only memory maps, whole-file reads with a limit, and writes that never leave a
// half-written file behind.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace reprise {

// A file mapped read-only. Shared by everything that points into it; unmapped with the last owner.
// Throws Error naming the path when it can't be opened or is no regular file. An empty file maps
// to an empty span.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  // Tells the system that these bytes (a sub-span of bytes()) are not needed soon: their resident
  // pages go back. Reading them again later is still valid.
  void release(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

// The whole file as text. Throws Error when it can't be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// For what is written at the end of long work: throws Error, beginning with `option`, where `path`
// can't be a file to write to (its folder doesn't exist or is closed, or it is a folder itself).
void check_output_path(const std::filesystem::path& path, const std::string& option);

// Writes a temporary file in the same folder, flushes it and renames it over `path`, which is then
// the old file or the whole new one, also when the program is killed. `write` may call its sink any
// number of times. Throws Error naming the path (disk full, no permission...) and leaves nothing
// behind then. Where a file system has no files without a name, a killed program may leave
// "<path>.partial-<process>-<number>", which the next write of `path` removes (partial.h). A device
// or pipe at `path` is written to, never replaced.
using ByteSink = std::function<void(std::span<const std::byte>)>;
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink&)>& write);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace reprise
