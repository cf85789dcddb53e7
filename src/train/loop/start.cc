#include "train/loop/start.h"

#include <algorithm>

#include "base/error.h"

namespace reprise {
namespace fs = std::filesystem;

StartedFolder::StartedFolder(const fs::path& folder)
    : folder_(folder.has_filename() ? folder : folder.parent_path()) {
  std::error_code error;
  for (fs::path path = folder_; !path.empty() && !fs::exists(path, error);
       path = path.parent_path())
    made_.push_back(path);
  fs::create_directories(folder_, error);
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored))
    fail("{}: can't be made a folder: {}", folder_.string(),
         error ? error.message() : "it is a file");
  before_ = files();
}

StartedFolder::~StartedFolder() {
  if (kept_) return;
  std::error_code ignored;
  for (const fs::path& file : files())
    if (std::ranges::find(before_, file) == before_.end()) fs::remove(file, ignored);
  for (const fs::path& folder : made_) fs::remove(folder, ignored);  // where it is empty
}

std::vector<fs::path> StartedFolder::files() const {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if ((name.starts_with("tokens-") && name.ends_with(".bin")) || name == "quantization.jsonl")
      found.push_back(it->path());
  }
  return found;
}

}  // namespace reprise
