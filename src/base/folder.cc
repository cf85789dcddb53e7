#include "base/folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/partial.h"

namespace reprise {
namespace {

bool is_taken(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(path, error);
  if (!std::filesystem::exists(status)) return false;
  return !(std::filesystem::is_directory(status) && std::filesystem::is_empty(path, error));
}

void flush(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// "out/" names the same folder as "out".
std::filesystem::path without_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

void write_folder_atomically(const std::filesystem::path& given, bool replace,
                             const std::function<void(const std::filesystem::path&)>& write) {
  const std::filesystem::path path = without_slash(given);
  if (!replace && is_taken(path)) fail("{}: exists already", path.string());
  remove_stale_partials(path);
  const Partial partial = make_partial_folder(path);
  const std::string& name = partial.name;
  if (name.empty()) fail("{}: can't be created: {}", path.string(), std::strerror(errno));
  const std::filesystem::path temporary = name;
  const auto remove = [&] {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
  };
  try {
    write(temporary);
    if (::chmod(temporary.c_str(), 0755) != 0)
      fail("{}: can't be written: {}", path.string(), std::strerror(errno));
    flush(temporary);
    if (replace && is_taken(path)) {
      if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0)
        fail("{}: can't be replaced: {}", path.string(), std::strerror(errno));
      remove();  // by now it holds what was there before
    } else if (::rename(temporary.c_str(), path.c_str()) != 0) {
      fail("{}: can't be written: {}", path.string(), std::strerror(errno));
    }
  } catch (const Error& error) {
    remove();
    // Messages about files in the new folder name them by where they would have come to lie.
    std::string message = error.what();
    for (size_t at = 0; (at = message.find(name, at)) != std::string::npos;
         at += path.string().size())
      message.replace(at, name.size(), path.string());
    throw Error(message);
  } catch (...) {
    remove();
    throw;
  }
}

}  // namespace reprise
