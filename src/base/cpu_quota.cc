#include "base/cpu_quota.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

namespace reprise {
namespace {

namespace fs = std::filesystem;

std::optional<double> parse(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0)) return std::nullopt;
  return value;
}

// "max 100000", "200000 100000"; the period may be left out.
std::optional<double> quota_v2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  std::string limit, period = "100000";
  if (!(file >> limit)) return std::nullopt;
  file >> period;
  const auto time = parse(limit), of = parse(period);
  return time && of ? std::optional(*time / *of) : std::nullopt;
}

// -1: none.
std::optional<double> quota_v1(const fs::path& group) {
  std::ifstream limit_file(group / "cpu.cfs_quota_us"), period_file(group / "cpu.cfs_period_us");
  std::string limit, period;
  if (!(limit_file >> limit) || !(period_file >> period)) return std::nullopt;
  const auto time = parse(limit), of = parse(period);
  return time && of ? std::optional(*time / *of) : std::nullopt;
}

class Smallest {
 public:
  void add(std::optional<double> quota) {
    if (quota) found_ = std::min(found_.value_or(*quota), *quota);
  }
  std::optional<double> found() const { return found_; }

 private:
  std::optional<double> found_;
};

// The group and all around it. A container that shares its host's names of groups finds its own at
// the top of the mount: its path leads nowhere, its parents' at the end does.
template <class Quota>
void add_groups(const fs::path& mount, const fs::path& group, const Quota& quota,
                Smallest& smallest) {
  fs::path inner = group.relative_path();
  for (;;) {
    smallest.add(quota(mount / inner));
    if (inner.empty()) return;
    inner = inner.parent_path();
  }
}

bool names_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string one; std::getline(list, one, ',');)
    if (one == "cpu") return true;
  return false;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
  // Lines "id:controllers:path"; version 2 has id 0 and no controllers.
  fs::path unified, legacy;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) unified = line.substr(second + 1);
    if (names_cpu(controllers)) legacy = line.substr(second + 1);
  }
  const fs::path mounts = root / "sys/fs/cgroup";
  Smallest smallest;
  for (const char* mount : {"", "unified"}) add_groups(mounts / mount, unified, quota_v2, smallest);
  for (const char* mount : {"cpu", "cpu,cpuacct", "cpuacct,cpu"})
    add_groups(mounts / mount, legacy, quota_v1, smallest);
  return smallest.found();
}

}  // namespace reprise
