// Token by token to text, for streaming: what is handed out is always whole UTF-8 characters, and
// never part of a stop string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/tokenizer.h"

namespace reprise {

// Turns tokens into text. All pieces joined, flush() included, are decode() of all tokens. Bytes
// that can't be UTF-8 any more become U+FFFD, one per maximal subpart (see utf8.h).
class StreamDecoder {
 public:
  // Keeps a reference: the tokenizer must outlive it.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer),
        skip_special_(skip_special),
        rules_(tokenizer.decode_rules()),
        strip_(rules_.strip_first_space) {}

  // The text that is certain after this token; up to 3 bytes are kept back. Throws Error on an id
  // outside the vocabulary.
  std::string push(int32_t token);
  // What is left at the end of generation: nothing, or U+FFFD for a character cut short.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;  // never null; no reference, so that a decoder can be assigned
  bool skip_special_;
  Tokenizer::DecodeRules rules_;
  bool strip_;           // the next token's first space is left out
  std::string pending_;  // the start of a character
};

// Cuts generated text at the first stop string. "First" is the one that is complete first; among
// those complete at the same byte the longest. How the text is sliced makes no difference.
//
// Special tokens may be left out of the text and still end it: what they say is pushed as hidden.
// A stop string is looked for both in the whole text and in what is shown of it, so that neither
// "<|im_end|>" is missed nor a stop string ever shown.
class StopMatcher {
 public:
  // Throws Error on an empty stop string.
  explicit StopMatcher(std::vector<std::string> stops);

  // The text that is certainly not part of a stop string; the rest is held back. After a stop was
  // found everything is swallowed. Whole characters in, whole characters out.
  std::string push(std::string_view text) { return add(text, true); }
  // The same with text that isn't shown: it is never handed out.
  std::string push_hidden(std::string_view text) { return add(text, false); }
  // The text held back, when generation ends without a stop.
  std::string flush();

  bool stopped() const { return stopped_ >= 0; }

 private:
  std::string add(std::string_view text, bool shown);
  // Where the end of what is held begins that reads `text`; npos: it ends otherwise.
  size_t find_at_end(std::string_view text, bool shown_only) const;
  // Takes the first bytes off what is held; returns those that are shown.
  std::string release(size_t count);

  std::vector<std::string> stops_;
  std::string held_;
  std::vector<bool> shown_;  // [held_]
  int stopped_ = -1;
};

}  // namespace reprise
