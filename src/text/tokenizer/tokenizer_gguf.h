// Byte-level BPE tokenizers in GGUF metadata, keys tokenizer.ggml.*: model "gpt2", pre, tokens,
// token_type, merges, *_token_id, add_bos_token, add_eos_token; and tokenizer.chat_template.
#pragma once

#include <memory>

#include "formats/gguf.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

// Control tokens become special added tokens, user-defined ones added tokens that are not special.
// Which pieces a text is cut into is known by the name in tokenizer.ggml.pre alone; an unknown or
// missing name is an Error that lists the known ones. "qwen2" normalizes to NFC as the model's own
// tokenizer.json does. Bytes without a token are dropped.
TokenizerSpec spec_from_gguf(const GgufMetadata& metadata);
std::unique_ptr<Tokenizer> tokenizer_from_gguf(const GgufMetadata& metadata);

// What writers put where the vocabulary has a hole.
std::string gguf_hole_text(int64_t id);

// The same keys for a file to be written; padded to vocab_size tokens, when that is larger (models
// whose embedding has more rows than their tokenizer has tokens). Throws Error for what GGUF has no
// words for: split steps without a name, added tokens that strip or match single words.
void write_tokenizer(const TokenizerSpec& spec, int64_t vocab_size, GgufMetadata& metadata);

}  // namespace reprise
