#include "text/tokenizer/tokenizer_gguf.h"

#include <algorithm>

#include "base/error.h"

namespace reprise {
namespace {

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kBos = "tokenizer.ggml.bos_token_id";
constexpr const char* kEos = "tokenizer.ggml.eos_token_id";
constexpr const char* kUnknown = "tokenizer.ggml.unknown_token_id";
constexpr const char* kPad = "tokenizer.ggml.padding_token_id";
constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
constexpr const char* kTemplate = "tokenizer.chat_template";

enum TokenType : int64_t {
  kNormal = 1,
  kUnknownType = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5
};

void read_tokens(const GgufMetadata& metadata, TokenizerSpec& spec) {
  spec.tokens = metadata.get_strings(kTokens);
  const std::vector<int64_t> types = metadata.get_ints(kTypes);
  if (types.size() != spec.tokens.size())
    metadata.fail_at(kTypes, fmt::format("expected {} entries as in '{}', found {}",
                                         spec.tokens.size(), kTokens, types.size()));
  for (size_t i = 0; i < types.size(); ++i) {
    std::string& text = spec.tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (text.empty()) metadata.fail_at(kTokens, fmt::format("token {} is empty", i));
    if (types[i] == kControl || types[i] == kUnknownType || types[i] == kUserDefined) {
      spec.added.push_back({.id = id, .text = text, .special = types[i] != kUserDefined});
      text.clear();
    } else if (types[i] == kUnused && text == gguf_hole_text(id)) {
      text.clear();
    } else if (types[i] != kNormal && types[i] != kUnused) {
      metadata.fail_at(kTypes, fmt::format("token {} '{}': expected a type from 1 to 5, found {}",
                                           i, text, types[i]));
    }
  }
}

}  // namespace

std::string gguf_hole_text(int64_t id) { return fmt::format("[PAD{}]", id); }

TokenizerSpec spec_from_gguf(const GgufMetadata& metadata) {
  TokenizerSpec spec;
  spec.where = metadata.where();
  spec.vocab_key = kTokens;
  spec.merges_key = kMerges;
  if (const std::string& model = metadata.get_string(kModel); model != "gpt2")
    metadata.fail_at(
        kModel,
        "expected 'gpt2' (byte-level BPE) or 'llama' (SentencePiece), found '" + model + "'");
  if (!metadata.has(kPre))
    metadata.fail_at(kPre, "is missing, expected one of " + known_pre_tokenizers());
  const std::string& pre = metadata.get_string(kPre);
  const NamedPreTokenizer* named = find_pre_tokenizer(pre);
  if (!named)
    metadata.fail_at(kPre,
                     "unknown pre-tokenizer '" + pre + "', known are " + known_pre_tokenizers());
  spec.splits = named->splits;
  spec.nfc = named->nfc;
  spec.ignore_merges = named->ignore_merges;
  read_tokens(metadata, spec);
  spec.merges = metadata.get_strings(kMerges);

  const auto role = [&](const char* key, std::optional<int32_t>& id) {
    if (!metadata.has(key)) return;
    const auto last = static_cast<int64_t>(spec.tokens.size()) - 1;
    id = static_cast<int32_t>(metadata.get_int(key, 0, last));
  };
  role(kBos, spec.ids.bos);
  role(kEos, spec.ids.eos);
  role(kUnknown, spec.ids.unknown);
  role(kPad, spec.ids.pad);
  const auto add = [&](const char* key, const char* id_key, const std::optional<int32_t>& id,
                       bool unless_said, std::vector<int32_t>& list) {
    const std::optional<bool> said = metadata.find_bool(key);
    if (!said.value_or(unless_said) || (!said && !id)) return;
    if (!id) metadata.fail_at(key, fmt::format("is true, but key '{}' is missing", id_key));
    list.push_back(*id);
  };
  add(kAddBos, kBos, spec.ids.bos, named->adds_bos, spec.prefix);
  add(kAddEos, kEos, spec.ids.eos, false, spec.suffix);
  spec.chat_template = metadata.find_string(kTemplate);
  return spec;
}

std::unique_ptr<Tokenizer> tokenizer_from_gguf(const GgufMetadata& metadata) {
  return make_tokenizer(spec_from_gguf(metadata));
}

void write_tokenizer(const TokenizerSpec& spec, int64_t vocab_size, GgufMetadata& metadata) {
  const std::string_view pre = pre_tokenizer_name(spec);
  if (pre.empty())
    fail("{}: its way to split text has no name in GGUF files, which know {}", spec.where,
         known_pre_tokenizers());
  if (spec.unknown_byte)
    fail("{}: GGUF files can't say that unknown bytes become token {}", spec.where,
         *spec.unknown_byte);

  std::vector<std::string> tokens = spec.tokens;
  std::vector<int32_t> types(tokens.size(), kNormal);
  const auto resize = [&](int64_t size) {
    if (size <= static_cast<int64_t>(tokens.size())) return;
    tokens.resize(static_cast<size_t>(size));
    types.resize(static_cast<size_t>(size), kNormal);
  };
  resize(vocab_size);
  for (const AddedToken& token : spec.added) {
    if (token.lstrip || token.rstrip || token.single_word)
      fail("{}: added token '{}': GGUF files can't hold its flags lstrip, rstrip, single_word",
           spec.where, token.text);
    resize(int64_t{token.id} + 1);
    const auto i = static_cast<size_t>(token.id);
    tokens[i] = token.text;
    types[i] = token.special ? kControl : kUserDefined;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].empty()) continue;
    tokens[i] = gguf_hole_text(static_cast<int64_t>(i));
    types[i] = kUnused;
  }
  metadata.set(kModel, GgufValue(std::string("gpt2")));
  metadata.set(kPre, GgufValue(std::string(pre)));
  metadata.set(kTokens, std::move(tokens));
  metadata.set(kTypes, GgufValue(GgufArray{std::move(types)}));
  metadata.set(kMerges, spec.merges);
  const auto role = [&](const char* key, const std::optional<int32_t>& id) {
    if (id) metadata.set(key, GgufValue(static_cast<uint32_t>(*id)));
  };
  role(kBos, spec.ids.bos);
  role(kEos, spec.ids.eos);
  role(kUnknown, spec.ids.unknown);
  role(kPad, spec.ids.pad);
  const auto add = [&](const char* key, const std::vector<int32_t>& list,
                       const std::optional<int32_t>& id, const char* what) {
    if (!list.empty() && (list.size() > 1 || list[0] != id))
      fail("{}: its post-processor adds more than the {} token, which GGUF files can't say",
           spec.where, what);
    metadata.set(key, GgufValue(!list.empty()));
  };
  add(kAddBos, spec.prefix, spec.ids.bos, "BOS");
  add(kAddEos, spec.suffix, spec.ids.eos, "EOS");
  if (spec.chat_template) metadata.set(kTemplate, GgufValue(*spec.chat_template));
}

}  // namespace reprise
