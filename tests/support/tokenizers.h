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

// As spec_from_json.
inline std::unique_ptr<Tokenizer> tokenizer_from_json(const Json& tokenizer, const Json* config,
                                                      const std::string& where) {
  return make_tokenizer(spec_from_json(tokenizer, config, where));
}

inline void write_tokenizer_files(const TokenizerFiles& files,
                                  const std::filesystem::path& folder) {
  for (const auto& [name, bytes] : files.contents) write_file_atomically(folder / name, bytes);
}

}  // namespace reprise::test
