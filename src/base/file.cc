#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/partial.h"

namespace reprise {
namespace {

Descriptor open_for_reading(const std::filesystem::path& path, size_t* size) {
  // Without O_NONBLOCK opening a FIFO waits for a writer, perhaps for ever.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail("{}: can't be opened: {}", path.string(), std::strerror(errno));
  struct stat status {};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    fail("{}: is not a regular file", path.string());
  }
  *size = static_cast<size_t>(status.st_size);
  return Descriptor(fd);
}

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("{}: can't be written: {}", path.string(), std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  size_t size = 0;
  const Descriptor fd = open_for_reading(path, &size);
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  if (size > 0) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) fail("{}: can't be mapped: {}", path.string(), std::strerror(errno));
    file->data_ = static_cast<const std::byte*>(data);
    file->size_ = size;
  }
  return file;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (part.empty()) return;
  // Only whole pages inside the span: neighbours may belong to tensors still in use.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  const auto last = reinterpret_cast<uintptr_t>(part.data() + part.size()) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::string read_file(const std::filesystem::path& path, size_t max_bytes) {
  size_t size = 0;
  const Descriptor fd = open_for_reading(path, &size);
  if (size > max_bytes)
    fail("{}: has {} bytes, more than the limit of {}", path.string(), size, max_bytes);
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd.get(), text.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: can't be read: {}", path.string(), std::strerror(errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

namespace {

// A new file beside `path` that has no name yet, so that nothing is left of it however the program
// ends; -1 where the system has no such files.
int open_nameless(const std::filesystem::path& path) {
  if (::access("/proc/self/fd", X_OK) != 0) return -1;  // link_partial needs it
  const std::filesystem::path folder = path.parent_path();
  return ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
}

}  // namespace

void check_output_path(const std::filesystem::path& path, const std::string& option) {
  std::error_code ignored;
  if (path.empty()) fail("{}: the name is empty", option);
  if (std::filesystem::is_directory(path, ignored))
    fail("{} {}: is a folder, expected a file", option, path.string());
  if (std::filesystem::exists(path, ignored) &&
      !std::filesystem::is_regular_file(path, ignored))  // a device or pipe: needs no folder
    return;
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, ignored))
    fail("{} {}: there is no folder {}", option, path.string(), folder.string());
  if (::access(folder.c_str(), W_OK) != 0)
    fail("{} {}: folder {} can't be written to: {}", option, path.string(), folder.string(),
         std::strerror(errno));
}

void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink&)>& write) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    if (S_ISDIR(status.st_mode)) fail("{}: is a folder, expected a file", path.string());
    // A device or pipe is written to; it must never be replaced by a file.
    const Descriptor device(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (device.get() < 0) fail("{}: can't be written: {}", path.string(), std::strerror(errno));
    write([&](std::span<const std::byte> bytes) { write_all(device.get(), bytes, path); });
    return;
  }
  remove_stale_partials(path);
  Partial temporary{"", Descriptor(open_nameless(path))};  // its name, once it has one
  if (temporary.holder.get() < 0) temporary = make_partial_file(path);
  const int fd = temporary.holder.get();
  std::string& name = temporary.name;
  if (fd < 0) fail("{}: can't be created: {}", path.string(), std::strerror(errno));
  try {
    write([&](std::span<const std::byte> bytes) { write_all(fd, bytes, path); });
    const bool written = ::fchmod(fd, 0644) == 0 && ::fsync(fd) == 0;
    if (written && name.empty()) name = link_partial(fd, path);
    if (!written || name.empty() || ::rename(name.c_str(), path.c_str()) != 0)
      fail("{}: can't be written: {}", path.string(), std::strerror(errno));
  } catch (...) {
    if (!name.empty()) ::unlink(name.c_str());
    throw;
  }
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, [&](const ByteSink& sink) { sink(std::as_bytes(std::span(text))); });
}

}  // namespace reprise
