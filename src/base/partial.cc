#include "base/partial.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace reprise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMark = ".partial-";
constexpr int kMostNames = 1000;  // of one process, for one output

std::string partial_name(const fs::path& output, int number) {
  return fmt::format("{}{}{}-{}", output.string(), kMark, ::getpid(), number);
}

// Whether `rest`, behind the mark, is "<process>-<number>".
bool is_owner(std::string_view rest) {
  const size_t dash = rest.find('-');
  if (dash == std::string_view::npos) return false;
  const auto is_number = [](std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return is_number(rest.substr(0, dash)) && is_number(rest.substr(dash + 1));
}

// Whether `name` still names what is open as `fd`.
bool names(const std::string& name, int fd) {
  struct stat by_name {
  }, open{};
  return ::lstat(name.c_str(), &by_name) == 0 && ::fstat(fd, &open) == 0 &&
         by_name.st_ino == open.st_ino && by_name.st_dev == open.st_dev;
}

// A new name that `make` has made (0, else errno) and opened. Between the making and the lock
// another run may have taken it for a stale one; then it is gone, and another name is tried.
Partial make_partial(const fs::path& output, int (*make)(const std::string& name)) {
  for (int number = 0; number < kMostNames; ++number) {
    Partial partial{partial_name(output, number), Descriptor()};
    partial.holder = Descriptor(make(partial.name));
    if (partial.holder.get() < 0) {
      if (errno == EEXIST) continue;
      return {};
    }
    // Without locks on this file system nobody removes it either.
    const bool taken =
        ::flock(partial.holder.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!taken && names(partial.name, partial.holder.get())) return partial;
  }
  errno = EEXIST;
  return {};
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Partial make_partial_file(const fs::path& output) {
  return make_partial(output, [](const std::string& name) {
    return ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  });
}

Partial make_partial_folder(const fs::path& output) {
  return make_partial(output, [](const std::string& name) {
    if (::mkdir(name.c_str(), 0700) != 0) return -1;
    const int fd = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) errno = EEXIST;  // removed by another run: the next name
    return fd;
  });
}

std::string link_partial(int fd, const fs::path& output) {
  ::flock(fd, LOCK_EX | LOCK_NB);  // before it has a name
  const std::string source = fmt::format("/proc/self/fd/{}", fd);
  for (int number = 0; number < kMostNames; ++number) {
    std::string name = partial_name(output, number);
    // Linking can't replace a file, only rename can.
    if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return name;
    if (errno != EEXIST) break;
  }
  return "";
}

void remove_stale_partials(const fs::path& output) {
  const std::string begin = output.filename().string() + std::string(kMark);
  if (output.filename().empty()) return;
  std::error_code error;
  std::vector<fs::path> found;
  const fs::path folder = output.has_parent_path() ? output.parent_path() : ".";
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(begin) && is_owner(std::string_view(name).substr(begin.size())))
      found.push_back(it->path());
  }
  for (const fs::path& path : found) {
    // O_NONBLOCK: whatever it is, opening it doesn't wait.
    const Descriptor fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd.get() < 0 || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (!names(path.string(), fd.get())) continue;  // its owner has just finished
    fs::remove_all(path, error);
  }
}

}  // namespace reprise
