#include "text/tokenizer/tokenizer_base.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

constexpr size_t kMaxAddedTokenBytes = 4096;
constexpr size_t kMaxVocabBytes = size_t{1} << 31;

}  // namespace

void TokenizerBase::check_id(int32_t id) const {
  if (id < 0 || id >= vocabulary_.size())
    fail("{}: token id {} is outside the vocabulary of {}", where_, id, vocabulary_.size());
}

void TokenizerBase::check_role(const std::optional<int32_t>& id, const char* role) const {
  if (id && (*id < 0 || *id >= vocabulary_.size()))
    fail("{}: the {} token: expected an id below {}, found {}", where_, role, vocabulary_.size(),
         *id);
}

void TokenizerBase::check_roles() const {
  check_role(ids_.bos, "bos");
  check_role(ids_.eos, "eos");
  check_role(ids_.unknown, "unknown");
  check_role(ids_.pad, "pad");
  for (const auto* list : {&prefix_, &suffix_})
    for (const int32_t id : *list) check_role(id, "post-processor's");
}

int64_t TokenizerBase::index_added(int64_t model_entries) {
  const int64_t entries = model_entries + static_cast<int64_t>(added_.size());
  int64_t size = model_entries;
  for (const AddedToken& token : added_) {
    if (token.text.empty() || token.text.size() > kMaxAddedTokenBytes || !is_valid_utf8(token.text))
      fail("{}: added token {}: expected a text of 1 to {} bytes of UTF-8, found {} bytes", where_,
           token.id, kMaxAddedTokenBytes, token.text.size());
    if (token.id < 0 || token.id >= max_vocab_size(entries))
      fail("{}: added token '{}': id {} is out of range for a vocabulary of {} entries", where_,
           token.text, token.id, entries);
    if (const auto [it, is_new] = added_by_id_.emplace(token.id, &token); !is_new)
      fail("{}: added tokens '{}' and '{}' have the same id {}", where_, it->second->text,
           token.text, token.id);
    if (!added_ids_.emplace(token.text, token.id).second)
      fail("{}: added token '{}' is listed twice", where_, token.text);
    size = std::max<int64_t>(size, token.id + 1);
  }
  special_.reserve(static_cast<size_t>(size));
  return size;
}

void TokenizerBase::append_token(std::string_view bytes, bool special, std::string_view vocab_key) {
  vocabulary_.append(bytes);
  special_.push_back(special);
  if (vocabulary_.total_bytes() > kMaxVocabBytes)
    fail("{}: key '{}': more than {} bytes of tokens", where_, vocab_key, kMaxVocabBytes);
}

std::string_view TokenizerBase::checked_text(std::string_view text, std::string& repaired) {
  if (text.size() >= INT32_MAX)
    fail("a text of {} bytes is too long to tokenize at once, expected less than 2 GiB",
         text.size());
  if (is_valid_utf8(text)) return text;
  return repaired = to_valid_utf8(text);
}

}  // namespace reprise
