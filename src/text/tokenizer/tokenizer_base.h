// What all tokenizers here share: the table of token texts, added tokens, roles.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

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

// Holds what every tokenizer is asked for except its encode().
class TokenizerBase : public Tokenizer {
 public:
  int32_t vocab_size() const override { return vocabulary_.size(); }
  std::string_view token_bytes(int32_t id) const override {
    check_id(id);
    return vocabulary_.bytes(id);
  }
  bool is_special(int32_t id) const override {
    check_id(id);
    return special_[static_cast<size_t>(id)];
  }
  const SpecialIds& ids() const override { return ids_; }
  const std::optional<std::string>& chat_template() const override { return chat_template_; }

 protected:
  explicit TokenizerBase(TokenizerCommon common)
      : where_(std::move(common.where)),
        added_(std::move(common.added)),
        prefix_(std::move(common.prefix)),
        suffix_(std::move(common.suffix)),
        ids_(common.ids),
        chat_template_(std::move(common.chat_template)) {}

  void check_id(int32_t id) const;
  void check_role(const std::optional<int32_t>& id, const char* role) const;
  // Of all roles, and of prefix_ and suffix_; once the vocabulary is there.
  void check_roles() const;
  // Checks the added tokens and fills added_ids_ and added_by_id_. `model_entries`: ids of the
  // model's own vocabulary. Returns the size of both together.
  int64_t index_added(int64_t model_entries);
  // Appends a token to the vocabulary.
  void append_token(std::string_view bytes, bool special, std::string_view vocab_key);
  // `text` itself, or `repaired` where it isn't valid UTF-8. Throws Error when it is too long.
  static std::string_view checked_text(std::string_view text, std::string& repaired);

  std::string where_;
  Vocabulary vocabulary_;
  std::vector<bool> special_;      // [id]
  std::vector<AddedToken> added_;  // never changed: matchers point into it
  std::unordered_map<std::string_view, int32_t> added_ids_;
  std::unordered_map<int32_t, const AddedToken*> added_by_id_;
  std::vector<int32_t> prefix_, suffix_;
  SpecialIds ids_;
  std::optional<std::string> chat_template_;
};

}  // namespace reprise
