// For tests with a folder of data each, which are their parameters.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace reprise::test {

// Names of the folders in `root`, sorted.
inline std::vector<std::string> folders_in(const std::filesystem::path& root) {
  std::vector<std::string> list;
  for (const auto& entry : std::filesystem::directory_iterator(root))
    if (entry.is_directory()) list.push_back(entry.path().filename().string());
  std::ranges::sort(list);
  return list;
}

// A folder's name as a part of a test's, where GoogleTest has no hyphens.
inline std::string test_name(std::string folder) {
  std::ranges::replace(folder, '-', '_');
  return folder;
}

}  // namespace reprise::test
