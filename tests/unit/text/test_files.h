// Where the text tests' data lies; made by tests/data/text/make.py.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/tokenizers.h"

namespace reprise::testing {

using test::error_of;

inline std::string data_path(const std::string& file) {
  return test::data_dir().string() + "/text/" + file;
}

inline Json tokenizer_json(const std::string& name) { return load_json(data_path(name + ".json")); }

inline std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name) {
  return test::tokenizer_from_json(tokenizer_json(name), nullptr, name + ".json");
}

// An empty folder for the files of one test.
inline std::filesystem::path temp_folder(const std::string& name) {
  const auto folder = std::filesystem::temp_directory_path() / ("reprise_text_" + name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

}  // namespace reprise::testing
