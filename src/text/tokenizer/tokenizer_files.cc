#include "text/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer_gguf.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/tokenizer_sentencepiece.h"
#include "text/tokenizer/tokenizer_vocab.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

constexpr const char* kKeyPrefix = "reprise.files.";
constexpr const char* kOldKey = "reprise.tokenizer_json";
constexpr const char* kGgmlModel = "tokenizer.ggml.model";  // llama.cpp's
constexpr size_t kMaxFileBytes = size_t{256} << 20;

}  // namespace

const std::vector<std::string>& tokenizer_file_names() {
  static const std::vector<std::string> names = {
      "tokenizer.json",    "tokenizer.model",       "vocab.json",
      "merges.txt",        "tokenizer_config.json", "special_tokens_map.json",
      "added_tokens.json", "chat_template.jinja"};
  return names;
}

bool TokenizerFiles::has_vocabulary() const {
  return has("tokenizer.json") || has("tokenizer.model") || has("vocab.json") || has("merges.txt");
}

std::string TokenizerFiles::path_of(std::string_view name) const {
  return fmt::format("{}{}{}", before_name, name, after_name);
}

const std::string& TokenizerFiles::get(std::string_view name) const {
  const auto it = contents.find(name);
  if (it == contents.end()) fail("{}: is missing", path_of(name));
  return it->second;
}

std::optional<Json> TokenizerFiles::find_json(std::string_view name) const {
  const auto it = contents.find(name);
  if (it == contents.end()) return std::nullopt;
  Json json = parse_json(it->second, path_of(name));
  JsonObject(json, path_of(name));  // Error unless it is an object
  return json;
}

TokenizerFiles tokenizer_files_from_folder(const std::filesystem::path& folder) {
  TokenizerFiles files;
  files.where = folder.string();
  files.before_name = (folder / "").string();
  std::error_code ignored;
  for (const std::string& name : tokenizer_file_names()) {
    if (std::filesystem::exists(folder / name, ignored))
      files.contents[name] = read_file(folder / name, kMaxFileBytes);
  }
  return files;
}

TokenizerFiles tokenizer_files_from_gguf(const GgufMetadata& metadata) {
  TokenizerFiles files;
  files.where = metadata.where();
  files.before_name = metadata.where() + ": key '" + kKeyPrefix;
  files.after_name += '\'';
  for (const std::string& name : tokenizer_file_names()) {
    if (metadata.has(kKeyPrefix + name))
      files.contents[name] = metadata.get_bytes(kKeyPrefix + name);
  }
  if (!files.contents.empty()) return files;
  if (const auto json = metadata.find_string(kOldKey)) {
    files.before_name = metadata.where() + ": key '" + kOldKey + "' (";
    files.after_name.back() = ')';  // a quote above
    files.contents["tokenizer.json"] = *json;
  }
  return files;
}

void store_tokenizer_files(const TokenizerFiles& files, GgufMetadata& metadata) {
  for (const auto& [name, bytes] : files.contents) {
    const bool text = is_valid_utf8(bytes) && bytes.find('\0') == std::string::npos;
    if (text)
      metadata.set(kKeyPrefix + name, GgufValue(bytes));
    else
      metadata.set(kKeyPrefix + name,
                   GgufValue(GgufArray{std::vector<uint8_t>(bytes.begin(), bytes.end())}));
  }
}

std::unique_ptr<Tokenizer> tokenizer_from_files(const TokenizerFiles& files) {
  if (files.has("tokenizer.json")) return make_tokenizer(spec_from_files(files));
  const bool vocab = files.has("vocab.json"), merges = files.has("merges.txt");
  if (files.has("tokenizer.model")) {
    if (vocab || merges)
      fail(
          "{}: holds a SentencePiece vocabulary (tokenizer.model) and a byte-level one ({}) but no "
          "tokenizer.json; expected one of them",
          files.where, vocab ? "vocab.json" : "merges.txt");
    return sentencepiece_from_files(files);
  }
  if (vocab && merges) return make_tokenizer(spec_from_vocab_files(files));
  if (vocab || merges)
    fail("{}: holds {} but no {}", files.where, vocab ? "vocab.json" : "merges.txt",
         vocab ? "merges.txt" : "vocab.json");
  fail(
      "{}: no tokenizer, so text can't be read or written; expected tokenizer.json, "
      "tokenizer.model, or vocab.json and merges.txt",
      files.where);
}

std::unique_ptr<Tokenizer> tokenizer_from_gguf_or_files(const GgufMetadata& metadata) {
  const TokenizerFiles files = tokenizer_files_from_gguf(metadata);
  // Without keys of llama.cpp's either this says that there is no tokenizer.
  if (files.has_vocabulary() || !metadata.has(kGgmlModel)) return tokenizer_from_files(files);
  return metadata.find_string(kGgmlModel) == "llama" ? sentencepiece_from_gguf(metadata)
                                                     : tokenizer_from_gguf(metadata);
}

TokenizerFiles tokenizer_files_of(const ModelSource& source) {
  return source.gguf() ? tokenizer_files_from_gguf(source.gguf()->metadata)
                       : tokenizer_files_from_folder(source.path());
}

bool has_tokenizer(const ModelSource& source) {
  if (source.folder()) return source.folder()->has_vocabulary();
  if (!source.gguf()) return false;
  const GgufMetadata& metadata = source.gguf()->metadata;
  for (const char* key : {kGgmlModel, kOldKey, "reprise.files.tokenizer.json",
                          "reprise.files.tokenizer.model", "reprise.files.vocab.json"})
    if (metadata.has(key)) return true;
  return false;
}

std::unique_ptr<Tokenizer> tokenizer_of(const ModelSource& source) {
  return source.gguf() ? tokenizer_from_gguf_or_files(source.gguf()->metadata)
                       : tokenizer_from_files(tokenizer_files_from_folder(source.path()));
}

std::unique_ptr<Tokenizer> tokenizer_from_model(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model))
    return tokenizer_from_files(tokenizer_files_from_folder(model));
  if (!std::filesystem::exists(model)) {
    fail("{}: no such file or folder; expected a Hugging Face folder or a GGUF file",
         model.string());
  }
  return tokenizer_from_gguf_or_files(open_gguf(model).metadata);
}

}  // namespace reprise
