#include "text/tokenizer/tokenizer_sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "base/error.h"
#include "text/tokenizer/sentencepiece_model.h"
#include "text/tokenizer/tokenizer_base.h"
#include "text/tokenizer/tokenizer_config.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

constexpr std::string_view kMeta = "\u2581";  // how pieces write a space

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t i = 0; (i = text.find(from, i)) != std::string::npos; i += to.size())
    text.replace(i, from.size(), to);
  return text;
}

// The library reports by status, and throws where its data structures do.
template <class Call>
void checked(const std::string& where, Call&& call) {
  std::string message;
  try {
    const sentencepiece::util::Status status = call();
    if (status.ok()) return;
    message = status.message();
  } catch (const std::exception& error) {
    message = error.what();
  }
  fail("{}: the sentencepiece library refuses it: {}", where, message);
}

class SentencePieceTokenizer final : public TokenizerBase {
 public:
  explicit SentencePieceTokenizer(SentencePieceSpec spec);

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::optional<int32_t> find(std::string_view token_text) const override;
  DecodeRules decode_rules() const override { return decode_rules_; }

 private:
  void encode_part(std::string_view text, std::vector<int32_t>& out) const;

  sentencepiece::SentencePieceProcessor processor_;
  std::unique_ptr<AddedTokenMatcher> matcher_;
  bool legacy_, add_prefix_space_;
  std::vector<bool> has_role_;  // [id]
  std::string unknown_text_;
  size_t unknown_length_ = 0;  // pieces of unknown_text_ as ordinary text; not legacy only
  int32_t meta_id_ = -1;       // the piece of one space
  DecodeRules decode_rules_;
};

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceSpec spec)
    : TokenizerBase(spec), legacy_(spec.legacy), add_prefix_space_(spec.add_prefix_space) {
  const SentencePieceModel model = read_sentencepiece_model(spec.model, where_);
  const int64_t size = index_added(static_cast<int64_t>(model.pieces.size()));
  for (int64_t id = 0; id < size; ++id) {
    if (const auto added = added_by_id_.find(static_cast<int32_t>(id));
        added != added_by_id_.end()) {
      append_token(added->second->text, added->second->special, "pieces");
      continue;
    }
    if (id >= static_cast<int64_t>(model.pieces.size())) {
      append_token("", false, "pieces");  // a hole
      continue;
    }
    const Piece& piece = model.pieces[static_cast<size_t>(id)];
    const bool special = piece.type == Type::Control || piece.type == Type::Unknown;
    const char byte = piece.type == Type::Byte ? static_cast<char>(byte_of_piece(piece.text)) : 0;
    if (piece.type == Type::Byte)
      append_token({&byte, 1}, false, "pieces");
    else
      append_token(special ? piece.text : replace_all(piece.text, kMeta, " "), special, "pieces");
    if (piece.type == Type::Unknown) unknown_text_ = piece.text;
    if (piece.text == kMeta) meta_id_ = static_cast<int32_t>(id);
  }
  check_roles();
  has_role_.assign(static_cast<size_t>(size), false);
  for (const int32_t id : spec.roles) {
    check_id(id);
    has_role_[static_cast<size_t>(id)] = true;
  }
  if (ids_.unknown) unknown_text_ = vocabulary_.bytes(*ids_.unknown);

  std::vector<const AddedToken*> tokens;
  std::vector<std::string> texts;
  for (const AddedToken& token : added_) {
    tokens.push_back(&token);
    texts.push_back(token.text);
  }
  matcher_ = std::make_unique<AddedTokenMatcher>(std::move(tokens), texts, true);

  const std::string serialized = legacy_ ? spec.model : without_dummy_prefix(spec.model);
  checked(where_, [&] { return processor_.LoadFromSerializedProto(serialized); });
  decode_rules_.strip_first_space = legacy_ ? model.add_dummy_prefix : add_prefix_space_;
  decode_rules_.strip_after_special = legacy_ && model.add_dummy_prefix;
  if (!legacy_) {
    std::vector<int> ids;
    checked(where_, [&] { return processor_.Encode(unknown_text_, &ids); });
    unknown_length_ = ids.size();
  }
}

std::optional<int32_t> SentencePieceTokenizer::find(std::string_view token_text) const {
  if (const auto it = added_ids_.find(token_text); it != added_ids_.end()) return it->second;
  const int id = processor_.PieceToId(token_text);  // the unknown piece's where there is none
  if (id < 0 || processor_.IdToPiece(id) != token_text) return std::nullopt;
  return id;
}

void SentencePieceTokenizer::encode_part(std::string_view text, std::vector<int32_t>& out) const {
  std::vector<int> ids;
  // The library takes spaces away at the front of what it encodes when there is no dummy prefix.
  // As LlamaTokenizer: it is given a word in front, the unknown token's text, whose pieces go
  // again.
  const bool guarded = !legacy_ && (text.starts_with(kMeta) || text.starts_with(' '));
  const std::string with_guard = guarded ? fmt::format("{}{}", unknown_text_, text) : "";
  checked(where_, [&] { return processor_.Encode(guarded ? with_guard : text, &ids); });
  const size_t skip = guarded && ids.size() >= unknown_length_ ? unknown_length_ : 0;
  out.insert(out.end(), ids.begin() + static_cast<std::ptrdiff_t>(skip), ids.end());
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
  std::string repaired, prefixed;
  text = checked_text(text, repaired);
  if (!legacy_ && !text.empty()) {
    prefixed = fmt::format("{}{}", add_prefix_space_ && !options.continues ? kMeta : "",
                           replace_all(std::string(text), kMeta, " "));
    text = prefixed;
  }
  std::vector<int32_t> out;
  bool first_is_token = true;  // of what stands in `out` without the prefix
  for (const auto& part : matcher_->split(text, options.parse_special)) {
    // The space put in front of the text goes again where a token with a role follows it.
    if (!legacy_ && !options.continues && part.token && out.size() == 1 && !first_is_token &&
        out[0] == meta_id_ && has_role_[static_cast<size_t>(part.token->id)])
      out.clear();
    if (out.empty()) first_is_token = part.token != nullptr;
    if (part.token)
      out.push_back(part.token->id);
    else
      encode_part(part.text, out);
  }
  if (options.add_special) {
    out.insert(out.begin(), prefix_.begin(), prefix_.end());
    out.insert(out.end(), suffix_.begin(), suffix_.end());
  }
  return out;
}

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceSpec spec) {
  return std::make_unique<SentencePieceTokenizer>(std::move(spec));
}

std::unique_ptr<Tokenizer> sentencepiece_from_files(const TokenizerFiles& files) {
  SentencePieceSpec spec;
  spec.where = files.path_of("tokenizer.model");
  spec.model = files.get("tokenizer.model");
  const SentencePieceModel model = read_sentencepiece_model(spec.model, spec.where);

  const std::string name = tokenizer_class(files);
  const bool llama = name == "LlamaTokenizer" || name == "CodeLlamaTokenizer";
  const bool internlm = name.empty() || name == "InternLM2Tokenizer" || name == "InternLMTokenizer";
  if (!llama && !internlm)
    fail(
        "{}: key 'tokenizer_class': '{}' with a tokenizer.model is not known; known are "
        "LlamaTokenizer, InternLM2Tokenizer, InternLMTokenizer",
        files.path_of("tokenizer_config.json"), name);
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    ids.emplace(model.pieces[id].text, static_cast<int32_t>(id));
  const auto find = [&](std::string_view text) -> std::optional<int32_t> {
    const auto it = ids.find(text);
    return it == ids.end() ? std::nullopt : std::optional(it->second);
  };
  const RoleDefaults defaults{"<s>", "</s>", "<unk>", llama ? nullptr : "</s>"};
  SlowConfig config =
      read_slow_config(files, defaults, find, static_cast<int64_t>(model.pieces.size()));
  spec.added = std::move(config.added);
  spec.roles = std::move(config.roles);
  spec.ids = config.ids;
  spec.chat_template = std::move(config.chat_template);
  spec.legacy = !llama || config.legacy;
  spec.add_prefix_space = config.add_prefix_space;
  if (config.add_bos && spec.ids.bos) spec.prefix = {*spec.ids.bos};
  if (config.add_eos && spec.ids.eos) spec.suffix = {*spec.ids.eos};
  return make_sentencepiece_tokenizer(std::move(spec));
}

SentencePieceSpec sentencepiece_spec_from_gguf(const GgufMetadata& metadata) {
  constexpr const char* kTokens = "tokenizer.ggml.tokens";
  constexpr const char* kScores = "tokenizer.ggml.scores";
  constexpr const char* kTypes = "tokenizer.ggml.token_type";
  constexpr const char* kUnknown = "tokenizer.ggml.unknown_token_id";
  constexpr const char* kCharsmap = "tokenizer.ggml.precompiled_charsmap";
  SentencePieceSpec spec;
  spec.where = metadata.where();
  const std::vector<std::string>& tokens = metadata.get_strings(kTokens);
  const std::vector<float> scores = metadata.get_floats(kScores);
  const std::vector<int64_t> types = metadata.get_ints(kTypes);
  const auto same_size = [&](const char* key, size_t size) {
    if (size != tokens.size())
      metadata.fail_at(key, fmt::format("expected {} entries as in '{}', found {}", tokens.size(),
                                        kTokens, size));
  };
  same_size(kScores, scores.size());
  same_size(kTypes, types.size());

  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::Bpe;
  model.add_dummy_prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  model.remove_extra_whitespaces =
      metadata.find_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  if (metadata.has(kCharsmap)) {
    for (const int64_t byte : metadata.get_ints(kCharsmap))
      model.precompiled_charsmap += static_cast<char>(byte);
  }
  // llama.cpp's converter writes the unknown token as a control token today.
  size_t unknown = tokens.size();
  if (std::ranges::find(types, static_cast<int64_t>(Type::Unknown)) == types.end() &&
      !tokens.empty())
    unknown = static_cast<size_t>(
        metadata.has(kUnknown) ? metadata.get_int(kUnknown, 0, std::ssize(tokens) - 1) : 0);
  // Phi-3's role tokens take the white space on their right, which a GGUF file can't say; llama.cpp
  // knows it by the model's name.
  const bool phi3 = metadata.find_string("general.architecture") == "phi3";
  const auto strips = [&](const std::string& text) {
    return phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] < 1 || types[i] > 6)
      metadata.fail_at(kTypes, fmt::format("token {} '{}': expected a type from 1 to 6, found {}",
                                           i, tokens[i], types[i]));
    Piece piece{tokens[i], scores[i], i == unknown ? Type::Unknown : static_cast<Type>(types[i])};
    const bool control = piece.type == Type::Control || piece.type == Type::Unknown;
    if (control || piece.type == Type::UserDefined)
      spec.added.push_back({.id = static_cast<int32_t>(i),
                            .text = tokens[i],
                            .special = control,
                            .rstrip = strips(tokens[i])});
    // Found before the library sees the text: to it they are names that never occur in a text.
    if (piece.type == Type::UserDefined) piece.type = Type::Control;
    model.byte_fallback = model.byte_fallback || piece.type == Type::Byte;
    model.pieces.push_back(std::move(piece));
  }
  spec.model = write_sentencepiece_model(model, fmt::format("{}: key '{}'", spec.where, kTokens));

  const auto role = [&](const char* key, std::optional<int32_t>& id) {
    if (!metadata.has(key)) return;
    const auto last = static_cast<int64_t>(tokens.size()) - 1;
    id = static_cast<int32_t>(metadata.get_int(key, 0, last));
  };
  role("tokenizer.ggml.bos_token_id", spec.ids.bos);
  role("tokenizer.ggml.eos_token_id", spec.ids.eos);
  role(kUnknown, spec.ids.unknown);
  role("tokenizer.ggml.padding_token_id", spec.ids.pad);
  if (metadata.find_bool("tokenizer.ggml.add_bos_token").value_or(true) && spec.ids.bos)
    spec.prefix = {*spec.ids.bos};
  if (metadata.find_bool("tokenizer.ggml.add_eos_token").value_or(false) && spec.ids.eos)
    spec.suffix = {*spec.ids.eos};
  spec.chat_template = metadata.find_string("tokenizer.chat_template");
  return spec;
}

std::unique_ptr<Tokenizer> sentencepiece_from_gguf(const GgufMetadata& metadata) {
  return make_sentencepiece_tokenizer(sentencepiece_spec_from_gguf(metadata));
}

}  // namespace reprise
