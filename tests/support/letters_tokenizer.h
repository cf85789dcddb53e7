// A tokenizer of single characters, for tests of what happens to tokens: token i is texts[i].
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace reprise::testing {

class LettersTokenizer : public Tokenizer {
 public:
  // Tokens from `first_special` on are special; -1: none.
  explicit LettersTokenizer(std::vector<std::string> texts, int32_t first_special = -1)
      : texts_(std::move(texts)), first_special_(first_special) {}

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<int32_t> ids;
    for (const char c : text) {
      if (const auto id = find(std::string_view(&c, 1))) ids.push_back(*id);
    }
    return ids;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(texts_.size()); }
  std::string_view token_bytes(int32_t id) const override {
    return texts_.at(static_cast<size_t>(id));
  }
  bool is_special(int32_t id) const override { return first_special_ >= 0 && id >= first_special_; }
  std::optional<int32_t> find(std::string_view text) const override {
    for (size_t i = 0; i < texts_.size(); ++i)
      if (texts_[i] == text) return static_cast<int32_t>(i);
    return std::nullopt;
  }
  const SpecialIds& ids() const override { return ids_; }
  const std::optional<std::string>& chat_template() const override { return none_; }

 private:
  std::vector<std::string> texts_;
  int32_t first_special_;
  SpecialIds ids_;
  std::optional<std::string> none_;
};

}  // namespace reprise::testing
