// SentencePiece tokenizers (BPE and unigram, byte fallback, normalization), run by the
// sentencepiece library: tokenizer.model with the files of tokenizer_config.h, as the slow tokenizers
// LlamaTokenizer (TroL-3.8B and Phantom-3.8B, from Phi-3) and InternLM2Tokenizer (the other TroL
// and Phantom models) of `transformers` read it; and vocabularies in GGUF files of llama.cpp.
#pragma once

#include <memory>
#include <string>

#include "formats/gguf.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

struct SentencePieceSpec : TokenizerCommon {
  std::string model;  // a serialized ModelProto
  // Added tokens are always looked for in the raw text. What is between two of them is encoded
  // alone: legacy (and InternLM2): as the library does it, with its dummy prefix where the model
  // has one. Not legacy: spaces are kept as they are, and one is put in front of the whole text
  // (add_prefix_space) unless that is a token with a role.
  bool legacy = true;
  bool add_prefix_space = true;
  std::vector<int32_t> roles;  // ids of tokens with a role
};

// Throws Error naming spec.where for anything wrong with the model or the tokens.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceSpec spec);

// tokenizer.model and what stands beside it. Throws Error naming file and key.
std::unique_ptr<Tokenizer> sentencepiece_from_files(const TokenizerFiles& files);

// tokenizer.ggml.model "llama": tokens, scores, token_type (1 normal, 2 unknown, 3 control, 4
// user-defined, 5 unused, 6 byte), add_space_prefix, remove_extra_whitespaces,
// precompiled_charsmap, *_token_id, add_bos_token (true where it is missing), add_eos_token.
// Control tokens become special added tokens, user-defined ones added tokens that are not special.
// Throws Error naming the key.
SentencePieceSpec sentencepiece_spec_from_gguf(const GgufMetadata& metadata);
std::unique_ptr<Tokenizer> sentencepiece_from_gguf(const GgufMetadata& metadata);

}  // namespace reprise
