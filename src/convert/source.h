// A model's files, opened to be converted: nothing is computed with them.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/stored_files.h"
#include "formats/model_source.h"
#include "model/load.h"
#include "model/model.h"

namespace reprise {

// How a tensor's values are changed on their way.
struct TensorEdit {
  std::vector<int64_t> rows;  // [out]: the row that comes to each place; empty: they stay
  float add = 0;              // to every value
};

struct ConversionSource {
  ModelSource model;
  // All tensors, those of a scheme's own files included (trol_gating.*), in file order, with their
  // true types and shapes (kTensorFormsKey).
  WeightFile weights;
  std::string config_text;                              // config.json as it is; empty for OtherGguf
  StoredFiles files;                                    // the small files beside it
  std::vector<std::string> left_out;                    // files of a folder that won't be converted
  std::map<std::string, std::string> weights_metadata;  // "__metadata__" of the safetensors files
  // Nullopt: the architecture is unknown, `unknown` says which. Its files can be converted, but
  // there is nothing to check them against and no tensor has a role.
  std::optional<ModelConfig> config;
  std::string unknown;
  std::unordered_map<std::string, TensorSlot> slots;  // by tensor name; their `tensor` is null
  std::unordered_map<std::string, TensorEdit> edits;  // of folder_form: by tensor name

  std::string path() const { return model.path().string(); }
  const TensorSlot* slot(const std::string& name) const;
};

// Throws one Error that lists all that is wrong: as Model::load does.
ConversionSource open_source(const std::filesystem::path& path, const LoadOptions& options = {});

// GGUF keys of what a folder has besides tensors and small files (and kConfigKey).
inline constexpr const char* kWeightsMetadataKey = "reprise.safetensors_metadata";  // JSON object
// JSON object {tensor: {"dtype", "shape"}} for those that GGUF has no words for: BOOL and U8 (as
// I8), scalars and more than four dimensions (as one).
inline constexpr const char* kTensorFormsKey = "reprise.tensor_forms";

}  // namespace reprise
