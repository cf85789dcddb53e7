// The files of a model folder that make up its tokenizer, as bytes by name: what a folder holds,
// what a GGUF file of ours carries, and what either is written out from again, file for file.
//
// Which files count, in this order (docs/tokenizers.md):
//   1. tokenizer.json                        the `tokenizers` package's format, complete in itself
//   2. tokenizer.model                       SentencePiece
//   3. vocab.json and merges.txt             byte-level BPE as Qwen2's and GPT-2's
// and beside each of them tokenizer_config.json, special_tokens_map.json, added_tokens.json and
// chat_template.jinja. In a GGUF file each is the value of "reprise.files.<name>": a string, or an
// array of u8 where it isn't text.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "formats/model_source.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

struct TokenizerFiles {
  std::string where;        // folder or GGUF file, for messages
  std::string before_name;  // path_of(name) is before_name + name + after_name
  std::string after_name;
  std::map<std::string, std::string, std::less<>> contents;

  bool has(std::string_view name) const { return contents.contains(name); }
  // Whether there is a file with a vocabulary among them.
  bool has_vocabulary() const;
  // How an error message names a file: "folder/tokenizer.json", "m.gguf: key 'reprise.files.x'".
  std::string path_of(std::string_view name) const;
  // Throws Error naming the file when it is missing.
  const std::string& get(std::string_view name) const;
  // The file as a JSON object; nullopt when it is missing. Throws Error naming it.
  std::optional<Json> find_json(std::string_view name) const;
};

// Every name that may be in `contents`.
const std::vector<std::string>& tokenizer_file_names();

// What there is of them in a folder. Throws Error when one can't be read.
TokenizerFiles tokenizer_files_from_folder(const std::filesystem::path& folder);
// What store_tokenizer_files() left in a GGUF file; files of older versions have
// "reprise.tokenizer_json" only. Empty for other GGUF files, see tokenizer_gguf.h. Throws Error
// naming the key.
TokenizerFiles tokenizer_files_from_gguf(const GgufMetadata& metadata);

void store_tokenizer_files(const TokenizerFiles& files, GgufMetadata& metadata);

// Throws Error naming file and key for whatever is wrong, and one that says what is expected when
// no vocabulary is there or the files contradict each other.
std::unique_ptr<Tokenizer> tokenizer_from_files(const TokenizerFiles& files);

// The tokenizer of a model: of a folder, or of a GGUF file of ours or of llama.cpp's.
std::unique_ptr<Tokenizer> tokenizer_from_gguf_or_files(const GgufMetadata& metadata);
// By path: all that a folder must hold is the tokenizer.
std::unique_ptr<Tokenizer> tokenizer_from_model(const std::filesystem::path& model);

// The same questions to a model that is open. One with keys of llama.cpp's only has no files.
TokenizerFiles tokenizer_files_of(const ModelSource& source);
// Whether there is any vocabulary; reads none.
bool has_tokenizer(const ModelSource& source);
std::unique_ptr<Tokenizer> tokenizer_of(const ModelSource& source);

}  // namespace reprise
