// Finds added tokens (special ones among them) in text, leftmost first and the longest at each
// place, with the strip and single_word rules of the `tokenizers` package.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace reprise {

class AddedTokenMatcher {
 public:
  // Keeps pointers to the tokens: they must outlive it. `texts[i]` is what to look for in place of
  // tokens[i].text (its normalized form, where it is matched in normalized text). White space is
  // what Unicode calls so; with python_space what Python's str.strip() takes.
  AddedTokenMatcher(std::vector<const AddedToken*> tokens, const std::vector<std::string>& texts,
                    bool python_space = false);

  struct Part {
    std::string_view text;
    const AddedToken* token;  // nullptr: ordinary text
  };
  // Cuts valid UTF-8 text. No ordinary part is empty. Special tokens stay text when !special.
  std::vector<Part> split(std::string_view text, bool special) const;

 private:
  // A byte trie. Children of a node: a linked list of siblings.
  struct Node {
    uint8_t byte = 0;
    int32_t child = -1, sibling = -1;
    int32_t token = -1;  // a token ends here
  };
  int32_t find_child(int32_t node, uint8_t byte) const;
  // The longest token at the front of `text`: its index and its length in bytes; index -1 = none.
  std::pair<int32_t, size_t> longest_at(std::string_view text) const;

  std::vector<const AddedToken*> tokens_;
  std::vector<Node> nodes_;
  bool python_space_;
  bool starts_[256] = {};  // bytes that some token begins with
};

}  // namespace reprise
