#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <functional>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/stream_decoder.h"
#include "text/utf8.h"

namespace reprise {
namespace {

constexpr size_t kMaxAddedTokenBytes = 4096;
constexpr size_t kMaxVocabBytes = size_t{1} << 31;

// All token texts in one buffer, and the way back from bytes to ids.
class Vocabulary {
 public:
  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  std::string_view bytes(int32_t id) const {
    const uint32_t begin = id == 0 ? 0 : ends_[id - 1];
    return std::string_view(buffer_).substr(begin, ends_[id] - begin);
  }
  void append(std::string_view bytes) {
    buffer_.append(bytes);
    ends_.push_back(static_cast<uint32_t>(buffer_.size()));
  }
  size_t total_bytes() const { return buffer_.size(); }

  // Makes the ids listed here findable. Returns the first that has the same bytes as an earlier one
  // and that earlier one, or nullopt.
  std::optional<std::pair<int32_t, int32_t>> index(const std::vector<int32_t>& ids) {
    slots_.assign(std::bit_ceil(2 * ids.size() + 16), Slot{});
    for (const int32_t id : ids) {
      const Slot wanted{id, hash(bytes(id))};
      Slot& slot = slots_[find_slot(bytes(id), wanted.hash)];
      if (slot.id >= 0) return std::pair{id, slot.id};
      slot = wanted;
    }
    return std::nullopt;
  }
  int32_t find(std::string_view token) const {  // -1: none
    return slots_[find_slot(token, hash(token))].id;
  }

 private:
  struct Slot {
    int32_t id = -1;    // -1: empty
    uint32_t hash = 0;  // kept, because comparing bytes means a cache miss or two
  };
  static uint32_t hash(std::string_view token) {
    return static_cast<uint32_t>(std::hash<std::string_view>{}(token));
  }
  size_t find_slot(std::string_view token, uint32_t hash) const {
    size_t i = hash & (slots_.size() - 1);
    while (slots_[i].id >= 0 && (slots_[i].hash != hash || bytes(slots_[i].id) != token))
      i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  std::string buffer_;
  std::vector<uint32_t> ends_;  // [id]
  std::vector<Slot> slots_;     // open addressing, at most half full
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerSpec spec);

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  int32_t vocab_size() const override { return vocabulary_.size(); }
  std::string_view token_bytes(int32_t id) const override {
    check_id(id);
    return vocabulary_.bytes(id);
  }
  bool is_special(int32_t id) const override {
    check_id(id);
    return special_[static_cast<size_t>(id)];
  }
  std::optional<int32_t> find(std::string_view token_text) const override;
  const SpecialIds& ids() const override { return ids_; }
  const std::optional<std::string>& chat_template() const override { return chat_template_; }

 private:
  void check_id(int32_t id) const {
    if (id < 0 || id >= vocabulary_.size())
      fail("{}: token id {} is outside the vocabulary of {}", where_, id, vocabulary_.size());
  }
  void check_role(const std::optional<int32_t>& id, const char* role) const {
    if (id && (*id < 0 || *id >= vocabulary_.size()))
      fail("{}: the {} token: expected an id below {}, found {}", where_, role, vocabulary_.size(),
           *id);
  }
  void build_vocabulary(const TokenizerSpec& spec);
  void build_merges(const TokenizerSpec& spec);
  void build_matchers();
  void encode_ordinary(std::string_view text, std::vector<int32_t>& out) const;

  std::string where_;
  Vocabulary vocabulary_;
  std::vector<bool> special_;      // [id]
  std::vector<AddedToken> added_;  // never changed: matchers point into it
  std::unordered_map<std::string_view, int32_t> added_ids_;
  std::unique_ptr<AddedTokenMatcher> raw_matcher_, normalized_matcher_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<BpeModel> bpe_;
  bool nfc_, ignore_merges_;
  std::vector<int32_t> prefix_, suffix_;
  SpecialIds ids_;
  std::optional<std::string> chat_template_;
};

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : where_(std::move(spec.where)),
      added_(std::move(spec.added)),
      nfc_(spec.nfc),
      ignore_merges_(spec.ignore_merges),
      prefix_(std::move(spec.prefix)),
      suffix_(std::move(spec.suffix)),
      ids_(spec.ids),
      chat_template_(std::move(spec.chat_template)) {
  build_vocabulary(spec);
  build_merges(spec);
  build_matchers();
  pre_tokenizer_ = std::make_unique<PreTokenizer>(spec.splits, where_);
  check_role(ids_.bos, "bos");
  check_role(ids_.eos, "eos");
  check_role(ids_.unknown, "unknown");
  check_role(ids_.pad, "pad");
  for (const auto* list : {&prefix_, &suffix_})
    for (const int32_t id : *list) check_role(id, "post-processor's");
}

void BpeTokenizer::build_vocabulary(const TokenizerSpec& spec) {
  const auto entries = static_cast<int64_t>(spec.tokens.size() + added_.size());
  auto size = static_cast<int64_t>(spec.tokens.size());
  const auto text_of = [&](int64_t id) -> const std::string& {
    static const std::string none;
    return id < static_cast<int64_t>(spec.tokens.size()) ? spec.tokens[static_cast<size_t>(id)]
                                                         : none;
  };
  std::unordered_map<int32_t, const AddedToken*> by_id;
  for (const AddedToken& token : added_) {
    if (token.text.empty() || token.text.size() > kMaxAddedTokenBytes || !is_valid_utf8(token.text))
      fail("{}: added token {}: expected a text of 1 to {} bytes of UTF-8, found {} bytes", where_,
           token.id, kMaxAddedTokenBytes, token.text.size());
    if (token.id < 0 || token.id >= max_vocab_size(entries))
      fail("{}: added token '{}': id {} is out of range for a vocabulary of {} entries", where_,
           token.text, token.id, entries);
    if (const auto [it, is_new] = by_id.emplace(token.id, &token); !is_new)
      fail("{}: added tokens '{}' and '{}' have the same id {}", where_, it->second->text,
           token.text, token.id);
    if (!added_ids_.emplace(token.text, token.id).second)
      fail("{}: added token '{}' is listed twice", where_, token.text);
    if (!text_of(token.id).empty() && text_of(token.id) != token.text)
      fail("{}: added token '{}': its id {} belongs to '{}' in key '{}'", where_, token.text,
           token.id, text_of(token.id), spec.vocab_key);
    size = std::max<int64_t>(size, token.id + 1);
  }

  special_.assign(static_cast<size_t>(size), false);
  std::vector<int32_t> model_ids;
  model_ids.reserve(spec.tokens.size());
  std::string bytes;
  for (int32_t id = 0; id < size; ++id) {
    const auto added = by_id.find(id);
    const std::string& text = text_of(id);
    bytes.clear();
    const bool in_alphabet = append_from_byte_alphabet(text, bytes);
    if (added == by_id.end() && !in_alphabet)
      fail("{}: key '{}': token {} '{}' has characters outside the byte alphabet", where_,
           spec.vocab_key, id, to_valid_utf8(text));
    if (in_alphabet && !text.empty()) model_ids.push_back(id);
    if (added != by_id.end()) {
      vocabulary_.append(added->second->text);
      special_[static_cast<size_t>(id)] = added->second->special;
    } else {
      vocabulary_.append(bytes);
    }
    if (vocabulary_.total_bytes() > kMaxVocabBytes)
      fail("{}: key '{}': more than {} bytes of tokens", where_, spec.vocab_key, kMaxVocabBytes);
  }
  if (const auto twins = vocabulary_.index(model_ids))
    fail("{}: key '{}': tokens {} and {} have the same text '{}'", where_, spec.vocab_key,
         twins->second, twins->first, to_byte_alphabet(vocabulary_.bytes(twins->first)));
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
    bool in_alphabet = append_from_byte_alphabet(text.substr(0, space), joined);
    const size_t cut = joined.size();
    in_alphabet = in_alphabet && append_from_byte_alphabet(text.substr(space + 1), joined);
    const auto lookup = [&](std::string_view bytes) {
      const int32_t id = in_alphabet ? vocabulary_.find(bytes) : -1;
      if (id < 0)
        fail("{}: key '{}': entry {} '{}': {} is not in key '{}'", where_, spec.merges_key, i,
             to_valid_utf8(text), in_alphabet ? to_byte_alphabet(bytes) : "one of its tokens",
             spec.vocab_key);
      return id;
    };
    const std::string_view both = joined;
    merges.push_back({lookup(both.substr(0, cut)), lookup(both.substr(cut)), lookup(both)});
  }
  std::array<int32_t, 256> byte_ids{};
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids[static_cast<size_t>(byte)] = vocabulary_.find({&c, 1});
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
      texts.push_back(normalized && nfc_ ? normalize_nfc(token.text) : token.text);
    }
    auto matcher = std::make_unique<AddedTokenMatcher>(std::move(tokens), texts);
    (normalized ? normalized_matcher_ : raw_matcher_) = std::move(matcher);
  }
}

std::optional<int32_t> BpeTokenizer::find(std::string_view token_text) const {
  if (const auto it = added_ids_.find(token_text); it != added_ids_.end()) return it->second;
  const auto bytes = from_byte_alphabet(token_text);
  const int32_t id = bytes && !bytes->empty() ? vocabulary_.find(*bytes) : -1;
  if (id < 0) return std::nullopt;
  return id;
}

void BpeTokenizer::encode_ordinary(std::string_view text, std::vector<int32_t>& out) const {
  std::deque<std::string> storage;
  for (const std::string_view piece : pre_tokenizer_->split(text, storage)) {
    const int32_t whole = ignore_merges_ ? vocabulary_.find(piece) : -1;
    if (whole >= 0)
      out.push_back(whole);
    else
      bpe_->encode(piece, out);
  }
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  if (text.size() >= INT32_MAX)
    fail("a text of {} bytes is too long to tokenize at once, expected less than 2 GiB",
         text.size());
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = to_valid_utf8(text);

  std::vector<int32_t> out;
  if (options.add_special) out = prefix_;
  for (const auto& part : raw_matcher_->split(text, options.parse_special)) {
    if (part.token) {
      out.push_back(part.token->id);
      continue;
    }
    const std::string normalized = nfc_ ? normalize_nfc(part.text) : std::string();
    for (const auto& inner :
         normalized_matcher_->split(nfc_ ? normalized : part.text, options.parse_special)) {
      if (inner.token)
        out.push_back(inner.token->id);
      else
        encode_ordinary(inner.text, out);
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
