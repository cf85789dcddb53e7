#include "text/tokenizer/added_tokens.h"

#include <algorithm>

#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

// The start of the last character of `text`, which is valid UTF-8 and not empty.
size_t last_char_start(std::string_view text) {
  size_t i = text.size() - 1;
  while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
  return i;
}

char32_t last_char(std::string_view text) {
  return first_char(text.substr(last_char_start(text))).code_point;
}

bool is_space(char32_t c, bool python) {
  return is_white_space(c) || (python && c >= 0x1C && c <= 0x1F);
}

size_t white_space_before(std::string_view text, bool python) {  // where trailing space begins
  while (!text.empty() && is_space(last_char(text), python))
    text.remove_suffix(text.size() - last_char_start(text));
  return text.size();
}

size_t white_space_length(std::string_view text, bool python) {  // of leading white space
  size_t i = 0;
  while (i < text.size()) {
    const Utf8Char c = first_char(text.substr(i, 4));
    if (!is_space(c.code_point, python)) break;
    i += c.length;
  }
  return i;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<const AddedToken*> tokens,
                                     const std::vector<std::string>& texts, bool python_space)
    : tokens_(std::move(tokens)), nodes_(1), python_space_(python_space) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (const char c : texts[i]) {
      const auto byte = static_cast<uint8_t>(c);
      int32_t child = find_child(node, byte);
      if (child < 0) {
        child = static_cast<int32_t>(nodes_.size());
        nodes_.push_back({byte, -1, nodes_[node].child, -1});
        nodes_[node].child = child;
      }
      node = child;
    }
    if (node == 0) continue;
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(i);
    starts_[static_cast<uint8_t>(texts[i][0])] = true;
  }
}

int32_t AddedTokenMatcher::find_child(int32_t node, uint8_t byte) const {
  int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

std::pair<int32_t, size_t> AddedTokenMatcher::longest_at(std::string_view text) const {
  std::pair<int32_t, size_t> best{-1, 0};
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = find_child(node, static_cast<uint8_t>(text[i]));
    if (node < 0) break;
    if (nodes_[node].token >= 0) best = {nodes_[node].token, i + 1};
  }
  return best;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::split(std::string_view text,
                                                              bool special) const {
  std::vector<Part> parts;
  size_t done = 0;  // everything before is in a part
  for (size_t i = 0; i < text.size();) {
    if (!starts_[static_cast<uint8_t>(text[i])]) {
      ++i;
      continue;
    }
    const auto [index, length] = longest_at(text.substr(i));
    if (index < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = *tokens_[index];
    size_t begin = i, end = i + length;
    i = end;  // a match that is turned down below is not searched again inside
    if (token.special && !special) continue;
    if (token.single_word) {
      const bool left = begin > 0 && is_word_char(last_char(text.substr(0, begin)));
      const bool right =
          end < text.size() && is_word_char(first_char(text.substr(end, 4)).code_point);
      if (left || right) continue;
    }
    if (token.lstrip)
      begin = std::max(white_space_before(text.substr(0, begin), python_space_), done);
    if (token.rstrip) end += white_space_length(text.substr(end), python_space_);
    begin = std::max(begin, done);  // a token that starts within white space already taken
    end = std::max(end, begin);
    if (done < begin) parts.push_back({text.substr(done, begin - done), nullptr});
    parts.push_back({text.substr(begin, end - begin), &token});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), nullptr});
  return parts;
}

}  // namespace reprise
