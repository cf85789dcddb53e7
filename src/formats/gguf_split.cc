// Files that llama.cpp's gguf-split has cut: NAME-00001-of-0000N.gguf, ... Each part is a GGUF file
// of its own with these keys; the model's other keys are in the first.
//   split.no             0 for the first part
//   split.count          N; 0 or 1 where nothing was cut
//   split.tensors.count  of all parts together
#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "formats/gguf_layout.h"

namespace reprise {
namespace {

constexpr const char* kNo = "split.no";
constexpr const char* kCount = "split.count";
constexpr const char* kTensors = "split.tensors.count";
constexpr const char* kArchitecture = "general.architecture";
constexpr int64_t kMostParts = UINT16_MAX;

std::string part_name(const std::string& stem, int64_t no, int64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, no + 1, count);
}

// NAME of a path whose file is NAME-00001-of-0000N.gguf by its keys; its part's number may be
// another. Empty for other names.
std::string stem_of(const std::filesystem::path& path, int64_t no, int64_t count) {
  const std::string name = path.filename().string();
  const std::string ending = part_name("", no, count);
  return name.size() > ending.size() && name.ends_with(ending)
             ? name.substr(0, name.size() - ending.size())
             : "";
}

// That a further part says what the first one makes expect.
void check_part(const GgufMetadata& part, const char* key, int64_t expected,
                const std::string& first) {
  const std::optional<int64_t> found = part.find_int(key);
  if (found != expected)
    part.fail_at(key, fmt::format("expected {}, for it to belong to {}, found {}", expected, first,
                                  found ? std::to_string(*found) : "no such key"));
}

// gguf-split leaves it out of further parts, the `gguf` package writes it into all.
void check_architecture(const GgufMetadata& part, const GgufMetadata& first) {
  const auto found = part.find_string(kArchitecture), expected = first.find_string(kArchitecture);
  if (found && found != expected)
    part.fail_at(kArchitecture, fmt::format("expected '{}', for it to belong to {}, found '{}'",
                                            expected.value_or(""), first.where(), *found));
}

// The paths of all parts. Throws Error unless `path` is the first and the others lie beside it.
std::vector<std::filesystem::path> find_parts(const std::filesystem::path& path,
                                              const GgufMetadata& metadata, int64_t count) {
  const int64_t no = metadata.get_int(kNo, 0, count - 1);
  const std::string stem = stem_of(path, no, count);
  if (no != 0)
    metadata.fail_at(
        kNo, fmt::format("is {}, part {} of {}; expected the first part, {}", no, no + 1, count,
                         part_name(stem.empty() ? "NAME" : stem, 0, count)));
  if (stem.empty())
    metadata.fail_at(kCount, fmt::format("is {}, so there are other parts, which are found by the "
                                         "first one's name; expected it to be {}",
                                         count, part_name("NAME", 0, count)));
  std::vector<std::filesystem::path> paths;
  std::vector<std::string> missing;
  std::error_code ignored;
  for (int64_t i = 0; i < count; ++i) {
    paths.push_back(path.parent_path() / part_name(stem, i, count));
    if (!std::filesystem::exists(paths.back(), ignored)) missing.push_back(paths.back().string());
  }
  if (!missing.empty())
    metadata.fail_at(
        kCount,
        fmt::format("expected {} parts, but {} is missing{}", count, missing[0],
                    missing.size() == 1 ? "" : fmt::format(", and {} more", missing.size() - 1)));
  return paths;
}

}  // namespace

GgufFile open_gguf(const std::filesystem::path& path) {
  GgufFile file = open_gguf_part(path);
  const int64_t count =
      file.metadata.has(kCount) ? file.metadata.get_int(kCount, 0, kMostParts) : 1;
  if (count <= 1) return file;

  const std::string first = path.string();
  file.parts = find_parts(path, file.metadata, count);
  const int64_t total = file.metadata.get_int(kTensors, 0, INT32_MAX);
  std::vector<TensorView> tensors = std::move(file.weights).tensors();
  std::unordered_map<std::string, std::string> file_of;
  for (const TensorView& tensor : tensors) file_of.emplace(tensor.name, first);
  for (int64_t no = 1; no < count; ++no) {
    const std::filesystem::path& part_path = file.parts[static_cast<size_t>(no)];
    GgufFile part = open_gguf_part(part_path);
    check_part(part.metadata, kNo, no, first);
    check_part(part.metadata, kCount, count, first);
    check_part(part.metadata, kTensors, total, first);
    check_architecture(part.metadata, file.metadata);
    for (TensorView& tensor : std::move(part.weights).tensors()) {
      const auto [other, added] = file_of.emplace(tensor.name, part_path.string());
      if (!added)
        fail("{}: tensor '{}' is in {} too; expected parts of one model", part_path.string(),
             tensor.name, other->second);
      tensors.push_back(std::move(tensor));
    }
  }
  if (static_cast<int64_t>(tensors.size()) != total)
    file.metadata.fail_at(kTensors, fmt::format("expected {}, which the {} parts hold together, "
                                                "found {}",
                                                tensors.size(), count, total));
  file.weights = WeightFile(first, std::move(tensors));
  // What is read is whole; the keys would be wrong in a file that is written from it.
  GgufMetadata metadata(first);
  for (const auto& [key, value] : file.metadata.entries())
    if (!key.starts_with("split.")) metadata.set(key, value);
  file.metadata = std::move(metadata);
  return file;
}

}  // namespace reprise
