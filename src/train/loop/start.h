// The beginning of a run: its folder, and what a start that fails leaves of it, which is nothing.
#pragma once

#include <filesystem>
#include <vector>

namespace reprise {

// Makes the run's folder where it isn't there. Unless `keep` is called, what was made since then
// goes again: the files that a start writes (texts' tokens, quantization.jsonl) and the folders; what
// was there before stays.
class StartedFolder {
 public:
  // Throws Error naming the folder where it can't be made.
  explicit StartedFolder(const std::filesystem::path& folder);
  ~StartedFolder();
  StartedFolder(const StartedFolder&) = delete;
  StartedFolder& operator=(const StartedFolder&) = delete;

  void keep() { kept_ = true; }

 private:
  std::vector<std::filesystem::path> files() const;  // of those that a start writes

  std::filesystem::path folder_;
  std::vector<std::filesystem::path> made_;    // folders, the deepest first
  std::vector<std::filesystem::path> before_;  // files
  bool kept_ = false;
};

}  // namespace reprise
