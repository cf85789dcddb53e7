// Outputs that are under way: "<output>.partial-<process>-<number>" beside where they come to lie.
// Such a name is locked (flock) while the process that made it lives, whatever ends it, so a later
// run can tell what a killed one has left from what somebody is writing now.
#pragma once

#include <filesystem>
#include <string>

namespace reprise {

// A descriptor that is closed when a scope ends, also by an exception.
class Descriptor {
 public:
  Descriptor() = default;  // of nothing
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

struct Partial {
  std::string name;   // its path; empty (and errno) where none could be made
  Descriptor holder;  // of the file or folder, with the lock
};

// New and empty, open for writing (a folder: for reading).
Partial make_partial_file(const std::filesystem::path& output);
Partial make_partial_folder(const std::filesystem::path& output);
// A partial name for the open file `fd`, which has none yet (O_TMPFILE); "" (and errno) on failure.
// `fd` gets the lock.
std::string link_partial(int fd, const std::filesystem::path& output);

// Removes what runs that have ended left of this output. What a living process holds, and where the
// file system has no such locks, everything, stays.
void remove_stale_partials(const std::filesystem::path& output);

}  // namespace reprise
