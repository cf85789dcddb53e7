// The tokenizer folders of tests/data/text/slow.json (made by make_slow.py): SentencePiece
// vocabularies and byte-level ones without a tokenizer.json.
#pragma once

#include <string>

#include "base/file.h"
#include "base/json.h"
#include "support/paths.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise::test {

// One entry of slow.json as files; values beginning with '@' name a file beside it.
inline TokenizerFiles slow_tokenizer_entry(const Json& entry) {
  TokenizerFiles files;
  files.where = entry["name"].get<std::string>();
  files.before_name = files.where + "/";
  for (const auto& [name, value] : entry["files"].items()) {
    const auto text = value.get<std::string>();
    files.contents[name] =
        text.starts_with("@") ? read_file(data_dir() / "text" / text.substr(1)) : text;
  }
  return files;
}

inline TokenizerFiles slow_tokenizer_files(const std::string& name) {
  for (const Json& entry : load_json(data_dir() / "text/slow.json"))
    if (entry["name"] == name) return slow_tokenizer_entry(entry);
  fail("slow.json: has no folder '{}'", name);
}

}  // namespace reprise::test
