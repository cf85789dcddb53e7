// A tokenizer made from text: byte-pair encoding with byte fallback, by the sentencepiece library, in
// its own file format (tokenizer.model), as Llama's tokenizers are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace reprise {

struct SentencePieceTraining {
  std::vector<std::filesystem::path> texts;  // a sentence or a paragraph a line
  int64_t vocab =
      4096;  // tokens in all: 3 special ones (<unk> 0, <s> 1, </s> 2), 256 bytes, pieces
  int threads = 1;
};

// The bytes of a tokenizer.model. The same texts give the same bytes. Throws Error naming the file
// where a text can't be read or is too small for so many tokens.
std::string train_sentencepiece(const SentencePieceTraining& training);

}  // namespace reprise
