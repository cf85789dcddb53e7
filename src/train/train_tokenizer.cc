#include "train/train_tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr int32_t kControl = 3;  // of token_type

Json special_token(const std::string& text) {
  return {{"content", text}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false},  {"special", true}};
}

void add_to_tokenizer_json(const std::string& text, int64_t id, std::string& json,
                           const std::string& where) {
  Json root = parse_json(json, where);
  Json token = special_token(text);
  token["id"] = id;
  root["added_tokens"].push_back(token);
  json = root.dump();
}

// Beside a vocabulary without a tokenizer.json. Where the config has a list of added tokens that
// list counts alone (tokenizer_config.h).
void add_to_slow_files(const std::string& text, int64_t id, TokenizerFiles& files) {
  Json config = files.find_json("tokenizer_config.json").value_or(Json::object());
  if (config.contains("added_tokens_decoder"))
    config["added_tokens_decoder"][std::to_string(id)] = special_token(text);
  else
    config["additional_special_tokens"].push_back(text);  // takes the next id
  files.contents["tokenizer_config.json"] = config.dump();
}

void add_to_keys(const std::string& text, GgufMetadata& keys) {
  std::vector<std::string> tokens = keys.get_strings(kTokens);
  std::vector<int32_t> types(tokens.size(), 1);
  if (keys.has(kTypes)) {
    const std::vector<int64_t> found = keys.get_ints(kTypes);
    types.assign(found.begin(), found.end());
  }
  tokens.push_back(text);
  types.push_back(kControl);
  if (keys.has(kScores)) {
    std::vector<float> scores = keys.get_floats(kScores);
    scores.push_back(0);
    keys.set(kScores, GgufValue(GgufArray{std::move(scores)}));
  }
  keys.set(kTokens, std::move(tokens));
  keys.set(kTypes, GgufValue(GgufArray{std::move(types)}));
}

}  // namespace

std::unique_ptr<Tokenizer> TrainTokenizer::make() const {
  return files.has_vocabulary() ? tokenizer_from_files(files) : tokenizer_from_gguf_or_files(keys);
}

int64_t TrainTokenizer::size() const { return make()->vocab_size(); }

int64_t TrainTokenizer::find_or_add(const std::string& text) {
  const auto tokenizer = make();
  if (const auto found = tokenizer->find(text)) return *found;
  const int64_t id = tokenizer->vocab_size();
  if (files.has("tokenizer.json"))
    add_to_tokenizer_json(text, id, files.contents["tokenizer.json"],
                          files.path_of("tokenizer.json"));
  else if (files.has_vocabulary())
    add_to_slow_files(text, id, files);
  else
    add_to_keys(text, keys);
  const auto added = make()->find(text);
  if (added != id)
    fail("{}: '{}' could not be added as token {}; name a token that is there", where, text, id);
  return id;
}

void TrainTokenizer::write(GgufMetadata& metadata) const {
  if (files.has_vocabulary()) return store_tokenizer_files(files, metadata);
  for (const auto& [key, value] : keys.entries()) metadata.set(key, value);
}

TrainTokenizer read_tokenizer(const std::filesystem::path& path) {
  TrainTokenizer tokenizer;
  tokenizer.where = path.string();
  if (std::filesystem::is_directory(path)) {
    tokenizer.files = tokenizer_files_from_folder(path);
  } else {
    tokenizer.files.where = path.string();
    tokenizer.files.before_name = (path.parent_path() / "").string();
    tokenizer.files.contents["tokenizer.json"] = read_file(path);
  }
  if (!tokenizer.files.has_vocabulary())
    fail(
        "{}: holds no tokenizer; expected tokenizer.json, tokenizer.model, or vocab.json and "
        "merges.txt",
        path.string());
  return tokenizer;
}

TrainTokenizer train_tokenizer_of(const ModelSource& source, const std::string& hint) {
  if (!has_tokenizer(source)) fail("{}: holds no tokenizer; {}", source.path().string(), hint);
  TrainTokenizer tokenizer;
  tokenizer.where = source.path().string();
  tokenizer.files = tokenizer_files_of(source);
  if (tokenizer.files.has_vocabulary()) return tokenizer;
  const GgufMetadata& metadata = source.gguf()->metadata;
  tokenizer.keys = GgufMetadata(metadata.where());
  for (const auto& [key, value] : metadata.entries())
    if (key.starts_with("tokenizer.")) tokenizer.keys.set(key, value);
  return tokenizer;
}

}  // namespace reprise
