// Tokenizers for tests: from JSON in memory, and as a folder's files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer_files.h"
#include "text/tokenizer/tokenizer_json.h"

namespace reprise::test {

// Of tokenizer.json and, where it is given, tokenizer_config.json.
inline std::unique_ptr<Tokenizer> tokenizer_from_json(const Json& tokenizer, const Json* config,
                                                      const std::string& where) {
  TokenizerFiles files;
  files.where = where;
  files.before_name = where + " (";
  files.after_name = ")";
  files.contents["tokenizer.json"] = tokenizer.dump();
  if (config) files.contents["tokenizer_config.json"] = config->dump();
  return make_tokenizer(spec_from_files(files));
}

inline void write_tokenizer_files(const TokenizerFiles& files,
                                  const std::filesystem::path& folder) {
  for (const auto& [name, bytes] : files.contents) write_file_atomically(folder / name, bytes);
}

}  // namespace reprise::test
