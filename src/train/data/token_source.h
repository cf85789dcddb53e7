// Texts as rows of context + 1 token ids, whatever file they come from. A row's first `context`
// tokens go in, the last `context` are predicted.
//
// Documents (parts of a text file with an empty line in between, or lines of a JSON Lines file) are
// packed: each is tokenized as a prompt is (with a beginning-of-text token where the tokenizer adds
// one) and ended by the tokenizer's end token; a tokenizer without one puts its beginning-of-text
// token in front instead; one with neither joins documents by nothing. All of them stand in one
// stream, which is cut every `context` tokens, so that every token but the first is predicted once;
// a row's attention reaches over the documents in it. What is left behind the last whole row is
// left out.
//
// Memory: a text is tokenized once, into a file of the run's folder, and that file is mapped, as a
// file of tokens is. A run that goes on later reuses it where text and tokenizer are the same.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "text/tokenizer/tokenizer.h"
#include "train/recipe/recipe.h"

namespace reprise {

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t context() const = 0;
  // out: [context + 1]
  virtual void read(int64_t row, std::span<int32_t> out) const = 0;
  // Changes with the tokens.
  virtual uint64_t fingerprint() const = 0;
};

struct TokenSourceOptions {
  int64_t context = 0;                     // 0: a token file's own
  int64_t vocab = 0;                       // ids are below
  const Tokenizer* tokenizer = nullptr;    // may be null for token files
  std::filesystem::path cache;             // file for a text's tokens
  std::function<void()> may_stop = [] {};  // called between documents; what it throws ends the work
};

// Throws Error naming the file, and line or row: it can't be read, a line has no text, a tensor of
// another type or shape, an id outside of the vocabulary, too few tokens for one row.
std::unique_ptr<TokenSource> open_token_source(const TextSource& source,
                                               const TokenSourceOptions& options);

}  // namespace reprise
