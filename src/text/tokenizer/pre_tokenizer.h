// Pre-tokenization: cutting text into the pieces within which BPE may merge. Patterns are run by
// PCRE2 with match and heap limits; they are written for Oniguruma (the `tokenizers` package), so
// what the two read differently is either translated or refused:
//   \s, \S        -> White_Space, as Oniguruma has it (PCRE2 adds U+180E)
//   ^ and $       match at line ends
//   \h \H \w \W \R \X \K \G \Z and nested or intersected classes are refused
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace reprise {

class PreTokenizer {
 public:
  // `where` and `key` begin error messages. Throws Error when a pattern does not compile.
  PreTokenizer(const std::vector<SplitStep>& steps, const std::string& where);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // The pieces of valid UTF-8 `text`, in order, none empty. They point into `text` or, where a step
  // had to add a space, into `storage`. Throws Error when a pattern exceeds its match limits.
  std::vector<std::string_view> split(std::string_view text,
                                      std::deque<std::string>& storage) const;

 private:
  struct Step;
  std::vector<std::unique_ptr<Step>> steps_;
  std::string where_;
};

}  // namespace reprise
