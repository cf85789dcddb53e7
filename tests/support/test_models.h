// Small models for tests: a temporary folder, and in it copies of the golden models (tests/data)
// with the test tokenizer beside them, to be changed and damaged at will.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace reprise::testing {

inline std::filesystem::path test_data(const std::string& name) { return test::data_dir() / name; }

// Copies golden model `name` ("trol/phi3-vit", "rrt/llama", ...) and the test tokenizer (320
// tokens, see tests/data/engine/make.py) to `to`.
inline void copy_model(const std::string& name, const std::filesystem::path& to) {
  std::filesystem::create_directories(to);
  std::filesystem::copy(test_data("golden/" + name + "/model"), to);
  std::filesystem::copy(test_data("engine/tokenizer"), to);
}

inline void edit_json(const std::filesystem::path& file, const std::function<void(Json&)>& edit) {
  Json json = load_json(file);
  edit(json);
  write_file_atomically(file, json.dump());
}

// Rewrites a safetensors file with each tensor passed through `edit`.
inline void edit_tensors(const std::filesystem::path& file,
                         const std::function<void(TensorView&)>& edit) {
  std::vector<TensorView> tensors = open_safetensors(file).weights.tensors();
  for (TensorView& tensor : tensors) edit(tensor);
  write_safetensors(file, tensors);
}

// Keeps only the first `bytes` bytes of a file.
inline void cut_file(const std::filesystem::path& file, size_t bytes) {
  const std::string text = read_file(file);
  write_file_atomically(file, std::string_view(text).substr(0, bytes));
}

}  // namespace reprise::testing
