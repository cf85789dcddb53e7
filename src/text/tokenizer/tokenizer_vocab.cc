#include "text/tokenizer/tokenizer_vocab.h"

#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer_config.h"

namespace reprise {
namespace {

void read_merges(const std::string& text, const std::string& where, TokenizerSpec& spec) {
  constexpr std::string_view kSpaces = " \t\r\f\v";
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size(); ++line_number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    line.remove_prefix(std::min(line.find_first_not_of(kSpaces), line.size()));
    line = line.substr(0, line.find_last_not_of(kSpaces) + 1);
    if (line.empty() || (line_number == 0 && line.starts_with("#version:"))) continue;
    const size_t space = line.find_first_of(kSpaces);
    const size_t next = line.find_first_not_of(kSpaces, space);
    if (space == std::string_view::npos || line.find_first_of(kSpaces, next) != line.npos)
      fail("{}: line {}: expected two tokens with a space between, found '{}'", where,
           line_number + 1, line.substr(0, 60));
    spec.merges.push_back(fmt::format("{} {}", line.substr(0, space), line.substr(next)));
  }
}

}  // namespace

void read_vocab_object(const Json& vocab, const std::string& where, const std::string& key,
                       TokenizerSpec& spec) {
  const auto entries = static_cast<int64_t>(vocab.size());
  const int64_t limit = max_vocab_size(entries);
  for (const auto& [text, id] : vocab.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= limit)
      fail("{}: {}token '{}': expected an id from 0 to {} ({} entries), found {}", where, key, text,
           limit - 1, entries, id.dump().substr(0, 40));
    const auto index = id.get<size_t>();
    if (index >= spec.tokens.size()) spec.tokens.resize(index + 1);
    if (!spec.tokens[index].empty())
      fail("{}: {}tokens '{}' and '{}' have the same id {}", where, key, spec.tokens[index], text,
           index);
    spec.tokens[index] = text;
  }
}

TokenizerSpec spec_from_vocab_files(const TokenizerFiles& files) {
  TokenizerSpec spec;
  spec.where = files.path_of("vocab.json");
  spec.vocab_key = "vocab.json";
  spec.merges_key = "merges.txt";
  spec.slow = true;
  const std::string name = tokenizer_class(files);
  const bool qwen2 = name == "Qwen2Tokenizer";
  if (!qwen2 && name != "GPT2Tokenizer")
    fail(
        "{}: key 'tokenizer_class': expected Qwen2Tokenizer or GPT2Tokenizer beside a vocab.json, "
        "found {}",
        files.path_of("tokenizer_config.json"), name.empty() ? "none" : "'" + name + "'");
  read_vocab_object(*files.find_json("vocab.json"), spec.where, "", spec);
  read_merges(files.get("merges.txt"), files.path_of("merges.txt"), spec);
  const NamedPreTokenizer* pre = find_pre_tokenizer(qwen2 ? "qwen2" : "gpt-2");
  spec.splits = pre->splits;
  spec.nfc = qwen2;

  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < spec.tokens.size(); ++id)
    if (!spec.tokens[id].empty()) ids.emplace(spec.tokens[id], static_cast<int32_t>(id));
  const auto find = [&](std::string_view text) -> std::optional<int32_t> {
    const auto it = ids.find(text);
    return it == ids.end() ? std::nullopt : std::optional(it->second);
  };
  constexpr const char* kEnd = "<|endoftext|>";
  const RoleDefaults defaults{qwen2 ? nullptr : kEnd, kEnd, kEnd, qwen2 ? kEnd : nullptr};
  SlowConfig config = read_slow_config(files, defaults, find, static_cast<int64_t>(ids.size()));
  spec.added = std::move(config.added);
  spec.ids = config.ids;
  spec.chat_template = std::move(config.chat_template);
  // A byte without a token becomes the unknown token where that is part of the vocabulary itself.
  for (const AddedToken& token : spec.added)
    if (spec.ids.unknown == token.id) spec.unknown_byte = find(token.text);
  return spec;
}

}  // namespace reprise
