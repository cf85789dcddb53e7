#include "text/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <ranges>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kMap = "special_tokens_map.json";
constexpr const char* kAdded = "added_tokens.json";
constexpr const char* kAdditional = "additional_special_tokens";

// In the order in which tokens that the vocabulary lacks get their ids.
struct Role {
  const char* key;
  std::optional<int32_t> SpecialIds::*id;  // nullptr: not asked for anywhere
};
constexpr Role kRoles[] = {{"bos_token", &SpecialIds::bos},
                           {"eos_token", &SpecialIds::eos},
                           {"unk_token", &SpecialIds::unknown},
                           {"sep_token", nullptr},
                           {"pad_token", &SpecialIds::pad},
                           {"cls_token", nullptr},
                           {"mask_token", nullptr}};

AddedToken special(std::string text) { return {.text = std::move(text), .special = true}; }

AddedToken read_token(const JsonObject& entry, bool is_special) {
  AddedToken token;
  token.text = entry.get_string("content");
  token.special = is_special || entry.find_bool("special").value_or(false);
  token.normalized = entry.find_bool("normalized").value_or(!token.special);
  token.lstrip = entry.find_bool("lstrip").value_or(false);
  token.rstrip = entry.find_bool("rstrip").value_or(false);
  token.single_word = entry.find_bool("single_word").value_or(false);
  return token;
}

// A token with a role: a string, or an object with the string in "content".
AddedToken read_role(const JsonObject& object, const std::string& key) {
  if (object.json()[key].is_object()) return read_token(object.get_object(key), true);
  return special(object.get_string(key));
}

class AddedTokens;

class Reader {
 public:
  Reader(const TokenizerFiles& files, const RoleDefaults& defaults)
      : files_(files), config_(files.find_json(kConfig)), map_(files.find_json(kMap)) {
    const std::pair<const char*, const char*> by_class[] = {{"bos_token", defaults.bos},
                                                            {"eos_token", defaults.eos},
                                                            {"unk_token", defaults.unknown},
                                                            {"pad_token", defaults.pad}};
    for (const auto& [key, text] : by_class)
      if (text != nullptr) roles_[key] = special(text);
    if (config_) read_roles(config());
    if (config_ && config().has("added_tokens_decoder")) {
      read_decoder();
    } else {
      if (map_) read_roles(JsonObject(*map_, files.path_of(kMap)));
      read_added_file();
    }
    // A role's token is the added one of the same text, with that one's flags.
    const auto same = [&](AddedToken& token) {
      for (const auto& [id, added] : by_id_)
        if (added.text == token.text) token = added;
    };
    for (auto& [key, token] : roles_) same(token);
    for (AddedToken& token : additional_) same(token);
  }

  JsonObject config() const { return JsonObject(*config_, files_.path_of(kConfig)); }
  bool has_config() const { return config_.has_value(); }

  // Beside a tokenizer.json.
  void lay_over(AddedTokens& tokens, SpecialIds& ids) const;

  void assign(const std::function<std::optional<int32_t>(std::string_view)>& find,
              int64_t vocab_size, SlowConfig& out) {
    std::map<std::string, int32_t, std::less<>> id_of;
    int64_t next = vocab_size;
    for (const auto& [id, token] : by_id_) {
      if (!id_of.emplace(token.text, id).second)
        fail("{}: added token '{}' is listed twice", files_.where, token.text);
      next += id >= vocab_size && !find(token.text);
    }
    const auto add = [&](AddedToken token) {
      auto it = id_of.find(token.text);
      if (it == id_of.end()) {
        const std::optional<int32_t> known = find(token.text);
        if (!known && next >= INT32_MAX) fail("{}: more than 2^31 tokens", files_.where);
        token.id = known ? *known : static_cast<int32_t>(next++);
        token.special = true;
        it = id_of.emplace(token.text, token.id).first;
        if (!by_id_.emplace(token.id, token).second)
          fail("{}: token '{}' has a role but no place: id {} belongs to added token '{}'",
               files_.where, token.text, token.id, by_id_[token.id].text);
      }
      out.roles.push_back(it->second);
      return it->second;
    };
    for (const Role& role : kRoles) {
      const auto it = roles_.find(role.key);
      if (it == roles_.end()) continue;
      const int32_t id = add(it->second);
      if (role.id != nullptr) out.ids.*role.id = id;
    }
    for (const AddedToken& token : additional_) add(token);
    for (auto& [id, token] : by_id_) {
      token.id = id;
      out.added.push_back(token);
    }
  }

 private:
  void read_roles(const JsonObject& object) {
    for (const Role& role : kRoles) {
      const auto it = object.json().find(role.key);
      if (it == object.json().end()) continue;
      if (it->is_null())
        roles_.erase(role.key);
      else
        roles_[role.key] = read_role(object, role.key);
    }
    const auto it = object.json().find(kAdditional);
    if (it == object.json().end() || it->is_null()) return;
    if (!it->is_array()) object.fail_at(kAdditional, "expected an array of tokens");
    for (size_t i = 0; i < it->size(); ++i) {
      const Json& entry = (*it)[i];
      if (!entry.is_string() && !entry.is_object())
        object.fail_at(kAdditional, fmt::format("entry {}: expected a string or an object", i));
      additional_.push_back(entry.is_string()
                                ? special(entry.get<std::string>())
                                : read_token(JsonObject(entry, object.where(),
                                                        fmt::format("{}[{}].", kAdditional, i)),
                                             true));
    }
  }

  void read_decoder() {
    const JsonObject decoder = config().get_object("added_tokens_decoder");
    for (const auto& [key, entry] : decoder.json().items()) {
      int32_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0)
        decoder.fail_at(key, "expected a token id as the key");
      by_id_[id] = read_token(decoder.get_object(key), false);
      by_id_[id].id = id;
      entry_keys_[id] = "added_tokens_decoder." + key;
    }
  }

  void read_added_file() {
    const std::optional<Json> file = files_.find_json(kAdded);
    if (!file) return;
    const JsonObject object(*file, files_.path_of(kAdded));
    for (const auto& item : object.json().items()) {
      const auto id = static_cast<int32_t>(object.get_int(item.key(), 0, INT32_MAX - 1));
      AddedToken token{.text = item.key()};
      entry_keys_[id] = item.key();
      token.special = std::any_of(roles_.begin(), roles_.end(),
                                  [&](const auto& role) { return role.second.text == token.text; });
      for (const AddedToken& other : additional_)
        token.special = token.special || other.text == token.text;
      token.normalized = !token.special;
      token.id = id;
      const auto [it, is_new] = by_id_.emplace(id, token);
      if (!is_new)
        object.fail_at(item.key(), fmt::format("has the same id {} as '{}'", id, it->second.text));
    }
  }

  const TokenizerFiles& files_;
  std::optional<Json> config_, map_;
  std::map<std::string, AddedToken> roles_;
  std::vector<AddedToken> additional_;
  std::map<int32_t, AddedToken> by_id_;
  std::map<int32_t, std::string> entry_keys_;  // where they are written
};

// Puts a token among those that tokenizer.json has, as `tokenizers` does it: one with this text
// keeps its id and gets these flags, a word of the vocabulary its own id, others the next free one.
class AddedTokens {
 public:
  explicit AddedTokens(TokenizerSpec& spec) : spec_(spec) {
    for (size_t i = 0; i < spec.tokens.size(); ++i) {
      if (spec.tokens[i].empty()) continue;
      vocabulary_.emplace(spec.tokens[i], static_cast<int32_t>(i));
      words_ += 1;
    }
  }

  const AddedToken* find(std::string_view text) const {
    const auto it = std::ranges::find(spec_.added, text, &AddedToken::text);
    return it == spec_.added.end() ? nullptr : &*it;
  }
  std::optional<int32_t> id_of(const std::string& text) const {
    if (const AddedToken* token = find(text)) return token->id;
    const auto it = vocabulary_.find(text);
    if (it == vocabulary_.end()) return std::nullopt;
    return it->second;
  }
  int32_t put(AddedToken token) {
    token.id = id_of(token.text).value_or(next_id());
    const auto same = std::ranges::find(spec_.added, token.text, &AddedToken::text);
    if (same != spec_.added.end()) {
      token.special = token.special || same->special;  // what was special once is left out for good
      *same = token;
    } else {
      spec_.added.push_back(token);
    }
    return token.id;
  }
  int32_t next_id() const {
    int64_t next = words_;
    for (const AddedToken& token : spec_.added) next = std::max(next, int64_t{token.id} + 1);
    if (next >= INT32_MAX) fail("{}: more than 2^31 tokens", spec_.where);
    return static_cast<int32_t>(next);
  }

 private:
  TokenizerSpec& spec_;
  std::unordered_map<std::string, int32_t> vocabulary_;
  int64_t words_ = 0;
};

void Reader::lay_over(AddedTokens& tokens, SpecialIds& ids) const {
  const bool decoder = config_ && config().has("added_tokens_decoder");
  const std::string file = files_.path_of(decoder ? kConfig : kAdded);
  const auto has_role = [&](const std::string& text) {
    const auto same = [&](const AddedToken& token) { return token.text == text; };
    return std::ranges::any_of(roles_, same, [](const auto& role) { return role.second; }) ||
           std::ranges::any_of(additional_, same);
  };
  for (AddedToken token : std::views::values(by_id_)) {
    const int32_t said = token.id;
    token.special = token.special || has_role(token.text);
    if (const int32_t id = tokens.put(token); id != said)
      fail("{}: key '{}': token '{}' has the id {} in the vocabulary, expected {}", file,
           entry_keys_.at(said), token.text, id, said);
  }
  const auto add = [&](AddedToken token) {
    token.special = true;
    const AddedToken* known = tokens.find(token.text);
    return known ? known->id : tokens.put(std::move(token));
  };
  for (const Role& role : kRoles) {
    const auto it = roles_.find(role.key);
    if (it == roles_.end()) continue;
    const int32_t id = add(it->second);
    if (role.id != nullptr) ids.*role.id = id;
  }
  for (const AddedToken& token : additional_) add(token);
}

// The tokens that classes have where no file names them, as far as the vocabulary knows them.
RoleDefaults known_defaults(std::string_view name, const AddedTokens& tokens) {
  RoleDefaults found;
  constexpr const char* kEnd = "<|endoftext|>";
  if (name == "GPT2Tokenizer" || name == "GPTNeoXTokenizer")
    found = {.bos = kEnd, .eos = kEnd, .unknown = kEnd};
  else if (name == "Qwen2Tokenizer")
    found = {.eos = kEnd, .pad = kEnd};
  else if (name == "LlamaTokenizer" || name == "CodeLlamaTokenizer")
    found = {.bos = "<s>", .eos = "</s>", .unknown = "<unk>"};
  for (const char** token : {&found.bos, &found.eos, &found.unknown, &found.pad})
    if (*token != nullptr && !tokens.id_of(*token)) *token = nullptr;
  return found;
}

// Classes whose code follows add_bos_token and add_eos_token beside a tokenizer.json.
bool follows_switches(std::string_view name) {
  constexpr std::string_view kNames[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                         "GPTNeoXTokenizer", "CohereTokenizer"};
  return std::ranges::find(kNames, name) != std::end(kNames);
}

// Classes that only wrap tokenizer.json; others have a value of their own for each key.
bool is_wrapper(std::string_view name) {
  return name.empty() || name == "PreTrainedTokenizer" || name == "TokenizersBackend";
}

}  // namespace

std::string tokenizer_class(const TokenizerFiles& files) {
  const std::optional<Json> config = files.find_json(kConfig);
  if (!config) return "";
  std::string name =
      JsonObject(*config, files.path_of(kConfig)).find_string("tokenizer_class").value_or("");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

SlowConfig read_slow_config(const TokenizerFiles& files, const RoleDefaults& defaults,
                            const std::function<std::optional<int32_t>(std::string_view)>& find,
                            int64_t vocab_size) {
  Reader reader(files, defaults);
  SlowConfig out;
  reader.assign(find, vocab_size, out);
  if (reader.has_config()) {
    const JsonObject config = reader.config();
    for (const char* key : {"split_special_tokens", "do_lower_case"}) {
      if (config.find_bool(key).value_or(false))
        config.fail_at(key, "expected false, true is not supported");
    }
    out.add_bos = config.find_bool("add_bos_token").value_or(true);
    out.add_eos = config.find_bool("add_eos_token").value_or(false);
    out.legacy = config.find_bool("legacy").value_or(true);
    out.add_prefix_space = config.find_bool("add_prefix_space").value_or(true);
  }
  for (const AddedToken& token : out.added) {
    if (token.single_word)
      fail("{}: added token '{}': flag single_word is only supported in tokenizer.json",
           files.where, token.text);
  }
  out.chat_template = read_chat_template(files);
  return out;
}

void apply_fast_config(const TokenizerFiles& files, bool byte_level, TokenizerSpec& spec) {
  AddedTokens tokens(spec);
  const std::string name = tokenizer_class(files);
  const Reader reader(files, known_defaults(name, tokens));
  reader.lay_over(tokens, spec.ids);
  spec.chat_template = read_chat_template(files);
  if (!reader.has_config()) return;
  const JsonObject config = reader.config();
  if (config.find_bool("split_special_tokens").value_or(false))
    config.fail_at("split_special_tokens", "expected false, true is not supported");

  const std::optional<bool> bos = config.find_bool("add_bos_token"),
                            eos = config.find_bool("add_eos_token");
  if (follows_switches(name) && (bos || eos)) {
    const auto ids = [&](bool add, const char* key, const std::optional<int32_t>& id) {
      if (add && !id) config.fail_at(key, "is true, but there is no such token");
      return add ? std::vector<int32_t>{*id} : std::vector<int32_t>{};
    };
    // The Llama classes put the first token in front unless they are told not to.
    const bool by_default = name != "GPTNeoXTokenizer";
    spec.prefix = ids(bos.value_or(by_default), "add_bos_token", spec.ids.bos);
    spec.suffix = ids(eos.value_or(false), "add_eos_token", spec.ids.eos);
  }

  std::optional<bool> prefix_space = config.find_bool("add_prefix_space");
  if (!prefix_space && !is_wrapper(name)) prefix_space = false;
  if (byte_level && prefix_space) {
    std::erase_if(spec.splits,
                  [](const SplitStep& step) { return step.kind == SplitStep::Kind::PrefixSpace; });
    if (*prefix_space)
      spec.splits.insert(spec.splits.begin(), {SplitStep::Kind::PrefixSpace, "", false});
  }
}

std::optional<std::string> read_chat_template(const JsonObject& config) {
  const auto it = config.json().find("chat_template");
  if (it == config.json().end() || it->is_null()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) config.fail_at("chat_template", "expected a string or an array");
  for (size_t i = 0; i < it->size(); ++i) {
    const JsonObject entry((*it)[i], config.where(), fmt::format("chat_template[{}].", i));
    if (entry.get_string("name") == "default") return entry.get_string("template");
  }
  config.fail_at("chat_template", "expected a string, or a list with an entry named 'default'");
}

std::optional<std::string> read_chat_template(const TokenizerFiles& files) {
  if (files.has("chat_template.jinja")) return files.get("chat_template.jinja");
  const std::optional<Json> config = files.find_json(kConfig);
  if (!config) return std::nullopt;
  return read_chat_template(JsonObject(*config, files.path_of(kConfig)));
}

}  // namespace reprise
