// What stands beside a vocabulary: tokenizer_config.json, special_tokens_map.json and
// added_tokens.json. Without a tokenizer.json they are read by the rules of the slow (Python)
// tokenizers of `transformers`:
//   - "added_tokens_decoder" of the config counts alone where it exists; without it the other two
//     files do, the map's entries before the config's;
//   - the tokens with a role (bos, eos, unk, sep, pad, cls, mask, additional) are added tokens too:
//     with the vocabulary's id where it has them, else with new ids at its end, in this order.
//
// Beside a tokenizer.json they are laid over it, by the rules of the fast tokenizers:
//   - tokens of "added_tokens_decoder" (without it: of added_tokens.json) have the flags written
//     there; those that tokenizer.json lacks are added;
//   - so are tokens with a role, as special ones, in the order above;
//   - "add_bos_token" and "add_eos_token" count for the classes that know them, "add_prefix_space"
//     for a pre-tokenizer that is ByteLevel alone.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

// Tokens a tokenizer class has where no file names them; nullptr: none.
struct RoleDefaults {
  const char *bos = nullptr, *eos = nullptr, *unknown = nullptr, *pad = nullptr;
};

struct SlowConfig {
  std::vector<AddedToken> added;  // by id
  std::vector<int32_t> roles;     // ids of all tokens with a role
  SpecialIds ids;
  bool add_bos = true, add_eos = false;
  bool legacy = true;            // LlamaTokenizer's flag
  bool add_prefix_space = true;  // counts when not legacy
  std::optional<std::string> chat_template;
};

// "tokenizer_class" without "Fast" at its end; empty where no file names one.
std::string tokenizer_class(const TokenizerFiles& files);

// `find` gives the id of a text in the vocabulary; `vocab_size` its number of entries. Throws Error
// naming file and key.
SlowConfig read_slow_config(const TokenizerFiles& files, const RoleDefaults& defaults,
                            const std::function<std::optional<int32_t>(std::string_view)>& find,
                            int64_t vocab_size);

// Lays them over what tokenizer.json says. `byte_level`: its pre-tokenizer is ByteLevel alone. Throws
// Error naming file and key: a token whose id isn't the one it would get, a key that isn't followed.
void apply_fast_config(const TokenizerFiles& files, bool byte_level, TokenizerSpec& spec);

// The chat template of a folder: chat_template.jinja, else the config's own: a string, or a list of
// {"name", "template"} of which "default" counts.
std::optional<std::string> read_chat_template(const TokenizerFiles& files);
std::optional<std::string> read_chat_template(const JsonObject& config);

}  // namespace reprise
