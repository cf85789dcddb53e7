// Byte-level BPE as two files, vocab.json (token -> id) and merges.txt (a pair a line, the best
// first; a first line "#version: ..." is left out), with the files of tokenizer_config.h: what the slow
// tokenizers Qwen2Tokenizer (Phantom-0.5B) and GPT2Tokenizer of `transformers` read.
#pragma once

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

// "tokenizer_class" in tokenizer_config.json says how text is cut into words. Throws Error naming
// file and key.
TokenizerSpec spec_from_vocab_files(const TokenizerFiles& files);

// Reads {"token": id, ...} into spec.tokens. `key` begins messages.
void read_vocab_object(const Json& vocab, const std::string& where, const std::string& key,
                       TokenizerSpec& spec);

}  // namespace reprise
