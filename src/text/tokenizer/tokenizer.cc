#include "text/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <deque>

#include "base/error.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/sentencepiece_model.h"
#include "text/tokenizer/stream_decoder.h"
#include "text/tokenizer/tokenizer_base.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

constexpr std::string_view kMeta = "\u2581";  // how vocabularies of characters write a space

std::string with_spaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const bool space = text.substr(i).starts_with(kMeta);
    out += space ? ' ' : text[i];
    i += space ? kMeta.size() : 1;
  }
  return out;
}

class BpeTokenizer final : public TokenizerBase {
 public:
  explicit BpeTokenizer(TokenizerSpec spec);

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::optional<int32_t> find(std::string_view token_text) const override;
  DecodeRules decode_rules() const override {
    return metaspace_ ? metaspace_->decode : DecodeRules{};
  }

 private:
  // A token as the file writes it, as bytes; false when it isn't written in the vocabulary's
  // alphabet. Spaces stand for U+2581 in all that is kept here.
  bool append_bytes(std::string_view written, std::string& out) const;
  std::string written(std::string_view bytes) const;  // the way back
  void build_vocabulary(const TokenizerSpec& spec);
  void build_merges(const TokenizerSpec& spec);
  void build_matchers();
  std::string normalize(std::string_view text) const;
  void encode_ordinary(std::string_view text, bool at_start, std::vector<int32_t>& out) const;
  void encode_characters(std::string_view text, std::vector<int32_t>& out) const;

  std::unique_ptr<AddedTokenMatcher> raw_matcher_, normalized_matcher_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<BpeModel> bpe_;
  std::optional<Metaspace> metaspace_;
  std::array<int32_t, 256> byte_ids_;  // tokens <0x00> to <0xFF> of metaspace, -1: none
  int32_t unknown_;
  bool nfc_, slow_, ignore_merges_, fuse_unknown_;
};

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : TokenizerBase(spec),
      metaspace_(spec.metaspace),
      unknown_(spec.unknown_byte.value_or(-1)),
      nfc_(spec.nfc),
      slow_(spec.slow),
      ignore_merges_(spec.ignore_merges),
      fuse_unknown_(spec.fuse_unknown) {
  REPRISE_CHECK(!metaspace_ || (!nfc_ && spec.splits.empty()));
  byte_ids_.fill(-1);
  build_vocabulary(spec);
  build_merges(spec);
  build_matchers();
  pre_tokenizer_ = std::make_unique<PreTokenizer>(spec.splits, where_);
  check_roles();
}

bool BpeTokenizer::append_bytes(std::string_view written, std::string& out) const {
  if (!metaspace_) return append_from_byte_alphabet(written, out);
  if (written.find(' ') != std::string_view::npos || !is_valid_utf8(written)) return false;
  out += with_spaces(written);
  return true;
}

std::string BpeTokenizer::written(std::string_view bytes) const {
  if (!metaspace_) return to_byte_alphabet(bytes);
  std::string out;
  for (const char c : bytes) {
    if (c == ' ')
      out += kMeta;
    else
      out += c;
  }
  return out;
}

void BpeTokenizer::build_vocabulary(const TokenizerSpec& spec) {
  const int64_t size = index_added(static_cast<int64_t>(spec.tokens.size()));
  std::vector<int32_t> model_ids;
  model_ids.reserve(spec.tokens.size());
  std::string bytes;
  for (int32_t id = 0; id < size; ++id) {
    static const std::string none;
    const auto index = static_cast<size_t>(id);
    const std::string& text = index < spec.tokens.size() ? spec.tokens[index] : none;
    const auto added = added_by_id_.find(id);
    if (added != added_by_id_.end()) {
      const AddedToken& token = *added->second;
      if (!text.empty() && text != token.text)
        fail("{}: added token '{}': its id {} belongs to '{}' in key '{}'", where_, token.text, id,
             text, spec.vocab_key);
      const std::string token_text = metaspace_ ? with_spaces(token.text) : token.text;
      append_token(token_text, token.special, spec.vocab_key);
      // It may be what merges make of ordinary text, too.
      bytes.clear();
      if (!text.empty() && append_bytes(text, bytes) && bytes == token_text)
        model_ids.push_back(id);
      continue;
    }
    const int byte = metaspace_ && metaspace_->byte_fallback ? byte_of_piece(text) : -1;
    if (byte >= 0) {
      const char c = static_cast<char>(byte);
      byte_ids_[static_cast<size_t>(byte)] = id;
      append_token({&c, 1}, false, spec.vocab_key);
      continue;
    }
    bytes.clear();
    if (!append_bytes(text, bytes))
      fail("{}: key '{}': token {} '{}' has characters outside the {} alphabet", where_,
           spec.vocab_key, id, to_valid_utf8(text), metaspace_ ? "U+2581" : "byte");
    if (!text.empty()) model_ids.push_back(id);
    append_token(bytes, false, spec.vocab_key);
  }
  if (const auto twins = vocabulary_.index(model_ids))
    fail("{}: key '{}': tokens {} and {} have the same text '{}'", where_, spec.vocab_key,
         twins->second, twins->first, written(vocabulary_.bytes(twins->first)));
}

void BpeTokenizer::build_merges(const TokenizerSpec& spec) {
  std::vector<BpeMerge> merges;
  merges.reserve(spec.merges.size());
  std::string joined;  // the bytes of both tokens
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string_view text = spec.merges[i];
    const size_t space = text.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string::npos)
      fail("{}: key '{}': entry {}: expected two tokens with a space between, found '{}'", where_,
           spec.merges_key, i, to_valid_utf8(text));
    joined.clear();
    bool in_alphabet = append_bytes(text.substr(0, space), joined);
    const size_t cut = joined.size();
    in_alphabet = in_alphabet && append_bytes(text.substr(space + 1), joined);
    const auto lookup = [&](std::string_view bytes) {
      const int32_t id = in_alphabet ? vocabulary_.find(bytes) : -1;
      if (id < 0)
        fail("{}: key '{}': entry {} '{}': {} is not in key '{}'", where_, spec.merges_key, i,
             to_valid_utf8(text), in_alphabet ? written(bytes) : "one of its tokens",
             spec.vocab_key);
      return id;
    };
    const std::string_view both = joined;
    merges.push_back({lookup(both.substr(0, cut)), lookup(both.substr(cut)), lookup(both)});
  }
  std::array<int32_t, 256> byte_ids{};
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids[static_cast<size_t>(byte)] =
        metaspace_ ? byte_ids_[static_cast<size_t>(byte)] : vocabulary_.find({&c, 1});
  }
  check_role(spec.unknown_byte, "unknown");
  bpe_ = std::make_unique<BpeModel>(byte_ids, merges, spec.unknown_byte.value_or(-1),
                                    spec.fuse_unknown);
}

void BpeTokenizer::build_matchers() {
  for (const bool normalized : {false, true}) {
    std::vector<const AddedToken*> tokens;
    std::vector<std::string> texts;
    for (const AddedToken& token : added_) {
      if (token.normalized != normalized) continue;
      tokens.push_back(&token);
      texts.push_back(normalized ? normalize(token.text) : token.text);
    }
    auto matcher = std::make_unique<AddedTokenMatcher>(std::move(tokens), texts, slow_);
    (normalized ? normalized_matcher_ : raw_matcher_) = std::move(matcher);
  }
}

std::optional<int32_t> BpeTokenizer::find(std::string_view token_text) const {
  if (const auto it = added_ids_.find(token_text); it != added_ids_.end()) return it->second;
  if (const int byte = byte_of_piece(token_text); byte >= 0 && metaspace_) {
    const int32_t id = byte_ids_[static_cast<size_t>(byte)];
    if (id >= 0) return id;
  }
  std::string bytes;
  const int32_t id =
      append_bytes(token_text, bytes) && !bytes.empty() ? vocabulary_.find(bytes) : -1;
  if (id < 0) return std::nullopt;
  return id;
}

// What happens to a text before added tokens with flag `normalized` are looked for.
std::string BpeTokenizer::normalize(std::string_view text) const {
  if (!metaspace_) return nfc_ ? normalize_nfc(text) : std::string(text);
  const bool prepend = metaspace_->prepend == Metaspace::Prepend::Normalizer && !text.empty();
  return fmt::format("{}{}", prepend ? " " : "", with_spaces(text));
}

void BpeTokenizer::encode_ordinary(std::string_view text, bool at_start,
                                   std::vector<int32_t>& out) const {
  if (metaspace_) {
    const bool prepend = metaspace_->prepend == Metaspace::Prepend::Always ||
                         (metaspace_->prepend == Metaspace::Prepend::First && at_start);
    std::string with_space;
    if (prepend && !text.starts_with(' ')) text = with_space = fmt::format(" {}", text);
    if (!metaspace_->split) return encode_characters(text, out);
    while (!text.empty()) {
      const size_t end = std::min(text.find(' ', 1), text.size());
      encode_characters(text.substr(0, end), out);
      text.remove_prefix(end);
    }
    return;
  }
  std::deque<std::string> storage;
  for (const std::string_view piece : pre_tokenizer_->split(text, storage)) {
    const int32_t whole = ignore_merges_ ? vocabulary_.find(piece) : -1;
    if (whole >= 0)
      out.push_back(whole);
    else
      bpe_->encode(piece, out);
  }
}

void BpeTokenizer::encode_characters(std::string_view text, std::vector<int32_t>& out) const {
  if (const int32_t whole = ignore_merges_ ? vocabulary_.find(text) : -1; whole >= 0) {
    out.push_back(whole);
    return;
  }
  std::vector<int32_t> tokens;
  tokens.reserve(text.size());
  bool last_unknown = false;
  for (size_t i = 0; i < text.size();) {
    const auto length = static_cast<size_t>(first_char(text.substr(i, 4)).length);
    const std::string_view character = text.substr(i, length);
    i += length;
    const int32_t id = vocabulary_.find(character);
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
    const bool bytes = id < 0 && std::all_of(character.begin(), character.end(),
                                             [&](char c) { return byte_id(c) >= 0; });
    const bool unknown = id < 0 && !bytes;
    if (id >= 0) {
      tokens.push_back(id);
    } else if (bytes) {
      for (const char c : character) tokens.push_back(byte_id(c));
    } else if (unknown_ >= 0 && !(fuse_unknown_ && last_unknown)) {
      tokens.push_back(unknown_);
    }
    last_unknown = unknown;
  }
  bpe_->merge(tokens, out);
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::string repaired, composed;
  text = checked_text(text, repaired);
  if (slow_ && nfc_) text = composed = normalize_nfc(text);

  std::vector<int32_t> out;
  if (options.add_special) out = prefix_;
  bool at_start = !options.continues;
  for (const auto& part : raw_matcher_->split(text, options.parse_special)) {
    if (part.token) {
      out.push_back(part.token->id);
      at_start = false;
      continue;
    }
    const bool changes = nfc_ || metaspace_;
    const std::string normalized = changes ? normalize(part.text) : std::string();
    for (const auto& inner :
         normalized_matcher_->split(changes ? normalized : part.text, options.parse_special)) {
      if (inner.token)
        out.push_back(inner.token->id);
      else
        encode_ordinary(inner.text, at_start, out);
      at_start = false;
    }
  }
  if (options.add_special) out.insert(out.end(), suffix_.begin(), suffix_.end());
  return out;
}

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerSpec spec) {
  return std::make_unique<BpeTokenizer>(std::move(spec));
}

}  // namespace reprise
