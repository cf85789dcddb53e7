#include "train/train_tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer_gguf.h"
#include "text/tokenizer_json.h"

namespace reprise {
namespace {

constexpr const char* kJsonKey = "reprise.tokenizer_json";

}  // namespace

std::unique_ptr<Tokenizer> TrainTokenizer::make() const {
  if (json.empty()) return make_tokenizer(spec);
  return tokenizer_from_json(parse_json(json, where), nullptr, where);
}

int64_t TrainTokenizer::size() const { return make()->vocab_size(); }

int64_t TrainTokenizer::find_or_add(const std::string& text, int64_t id) {
  if (const auto found = make()->find(text)) return *found;
  if (json.empty()) {
    spec.added.push_back({.id = static_cast<int32_t>(id), .text = text, .special = true});
    return id;
  }
  Json root = parse_json(json, where);
  root["added_tokens"].push_back({{"id", id},
                                  {"content", text},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", true}});
  json = root.dump();
  return id;
}

void TrainTokenizer::write(int64_t vocab_size, GgufMetadata& metadata) const {
  if (json.empty())
    write_tokenizer(spec, vocab_size, metadata);
  else
    metadata.set(kJsonKey, GgufValue(json));
}

TrainTokenizer read_tokenizer_file(const std::filesystem::path& path) {
  return {path.string(), read_file(path), {}};
}

TrainTokenizer tokenizer_of(const ModelFiles& files, const std::string& hint) {
  if (files.folder && files.folder->tokenizer_json)
    return read_tokenizer_file(*files.folder->tokenizer_json);
  if (files.gguf) {
    const GgufMetadata& metadata = files.gguf->metadata;
    if (const auto json = metadata.find_string(kJsonKey))
      return {metadata.where() + ": key '" + kJsonKey + "'", *json, {}};
    if (metadata.has("tokenizer.ggml.model"))
      return {metadata.where(), "", spec_from_gguf(metadata)};
  }
  fail("{}: holds no tokenizer; {}", files.path.string(), hint);
}

}  // namespace reprise
