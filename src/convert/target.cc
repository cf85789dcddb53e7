#include "convert/target.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace fs = std::filesystem;

void check_target(const ConversionSource& source, const fs::path& target, bool replace) {
  std::error_code ignored;
  if (!fs::exists(target, ignored)) return;
  if (fs::equivalent(source.path(), target, ignored))
    fail("{}: is the model to be converted; it can't be the target too", target.string());
  for (const TensorView& tensor : source.weights.tensors())  // parts of a split model
    if (tensor.file && fs::equivalent(tensor.file->path(), target, ignored))
      fail("{}: is a part of the model to be converted; it can't be the target too",
           target.string());
  const bool empty_folder = fs::is_directory(target, ignored) && fs::is_empty(target, ignored);
  if (!replace && !empty_folder) fail("{}: exists already (--force replaces it)", target.string());
}

void check_target_folder(const ConversionSource& source, const fs::path& target, bool replace) {
  check_target(source, target, replace);
  std::error_code ignored;
  if (fs::is_directory(target, ignored) && !fs::is_empty(target, ignored) &&
      !fs::exists(target / "config.json", ignored))
    fail("{}: holds files but no config.json, so it is no model folder and is not replaced",
         target.string());
}

void check_target_gguf(const ConversionSource& source, const fs::path& target, bool replace) {
  std::error_code ignored;
  if (fs::is_directory(target, ignored)) fail("{}: is a folder", target.string());
  check_target(source, target, replace);
}

GgufMetadata own_metadata(const ConversionSource& source, const std::string& config_text,
                          const std::string& scheme, const StoredFiles& files) {
  GgufMetadata metadata(source.path());
  metadata.set("general.architecture", std::string("reprise"));
  std::error_code ignored;
  const auto whole = fs::weakly_canonical(source.path(), ignored);
  metadata.set("general.name", whole.filename().string());
  metadata.set(kConfigKey, config_text);
  if (!scheme.empty()) metadata.set("reprise.scheme", scheme);
  if (!source.weights_metadata.empty())
    metadata.set(kWeightsMetadataKey, Json(source.weights_metadata).dump());
  store_files(files, metadata);
  return metadata;
}

void set_file_type(GgufMetadata& metadata, const std::vector<OutputTensor>& tensors,
                   const TypeMix* mix, bool always) {
  std::map<DType, int64_t> values;
  for (const OutputTensor& tensor : tensors)
    values[tensor.type] += num_elements(tensor.source.shape);
  const auto most = std::ranges::max_element(
      values, [](const auto& a, const auto& b) { return a.second < b.second; });
  const int type = mix ? mix->file_type : most == values.end() ? -1 : gguf_file_type(most->first);
  if (type >= 0 && (always || metadata.has("general.file_type")))
    metadata.set("general.file_type", GgufValue(static_cast<uint32_t>(type)));
  if (std::ranges::any_of(tensors, [](const OutputTensor& t) { return is_quantized(t.type); }))
    metadata.set("general.quantization_version", GgufValue(uint32_t{2}));  // of ggml's blocks
}

}  // namespace reprise
