#include "convert/stored_files.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

constexpr std::string_view kPrefix = "reprise.files.";
constexpr uintmax_t kMostBytes = uintmax_t{256} << 20;
// Weights, in whatever format: written anew from the tensors, or not ours to convert.
constexpr std::array kWeightEndings = {".safetensors", ".safetensors.index.json",
                                       ".bin",         ".bin.index.json",
                                       ".pt",          ".pth",
                                       ".gguf",        ".h5",
                                       ".msgpack",     ".onnx",
                                       ".ckpt",        ".npz"};

bool is_weights(const std::string& name) {
  return std::any_of(kWeightEndings.begin(), kWeightEndings.end(),
                     [&](const char* ending) { return name.ends_with(ending); });
}

// Written from the tensors by the exporter: no loss that they aren't stored.
bool is_rebuilt(const std::string& name, const std::vector<std::string>& rebuilt) {
  return name.ends_with(".safetensors") || name == "model.safetensors.index.json" ||
         std::ranges::count(rebuilt, name) > 0;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.size() <= 200 &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

}  // namespace

StoredFiles read_small_files(const std::filesystem::path& folder,
                             const std::vector<std::string>& rebuilt,
                             std::vector<std::string>& left_out) {
  StoredFiles files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "config.json" || name.starts_with(".") || is_rebuilt(name, rebuilt)) continue;
    if (!entry.is_regular_file() || is_weights(name) || !is_plain_name(name) ||
        entry.file_size() > kMostBytes) {
      left_out.push_back(name);
      continue;
    }
    files[name] = read_file(entry.path(), kMostBytes);
  }
  std::sort(left_out.begin(), left_out.end());
  return files;
}

void store_files(const StoredFiles& files, GgufMetadata& metadata) {
  for (const auto& [name, bytes] : files) {
    const std::string key = std::string(kPrefix) + name;
    if (is_valid_utf8(bytes) && bytes.find('\0') == std::string::npos)
      metadata.set(key, GgufValue(bytes));
    else
      metadata.set(key, GgufValue(GgufArray{std::vector<uint8_t>(bytes.begin(), bytes.end())}));
  }
}

StoredFiles load_stored_files(const GgufMetadata& metadata) {
  StoredFiles files;
  for (const auto& [key, value] : metadata.entries()) {
    if (!key.starts_with(kPrefix)) continue;
    const std::string name = key.substr(kPrefix.size());
    if (!is_plain_name(name) || is_weights(name) || name == "config.json")
      metadata.fail_at(key, "is no name of a small file that may lie in a model folder");
    files[name] = metadata.get_bytes(key);
  }
  if (const auto json = metadata.find_string("reprise.tokenizer_json"))  // files of version 0.1
    files.emplace("tokenizer.json", *json);
  return files;
}

}  // namespace reprise
