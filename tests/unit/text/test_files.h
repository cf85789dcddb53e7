// Where the text tests' data lies; made by tests/data/text/make.py.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "support/paths.h"
#include "text/tokenizer_json.h"

namespace reprise::testing {

inline std::string data_path(const std::string& file) {
  return test::data_dir().string() + "/text/" + file;
}

inline Json tokenizer_json(const std::string& name) { return load_json(data_path(name + ".json")); }

inline std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name) {
  return tokenizer_from_json(tokenizer_json(name), nullptr, name + ".json");
}

}  // namespace reprise::testing
