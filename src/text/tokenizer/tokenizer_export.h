// Tokenizers as files of a Hugging Face folder, made of what a llama.cpp file says of them: the way
// back from tokenizer_gguf.h and tokenizer_sentencepiece.h.
#pragma once

#include <map>
#include <string>

#include "base/json_fwd.h"
#include "formats/gguf.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

// tokenizer.json and tokenizer_config.json of such a file, for a config.json with this model_type:
// the same ids for every text, here and in transformers. Throws Error naming file and key for what
// they can't say.
std::map<std::string, std::string> export_tokenizer(const GgufMetadata& metadata,
                                                    const std::string& model_type);

// What such a file says of its tokenizer. A SentencePiece vocabulary becomes one of merges, as in
// the tokenizer.json files that are made of tokenizer.model: every way to make a piece of two
// others, the best score first.
TokenizerSpec merges_from_gguf(const GgufMetadata& metadata);

// tokenizer.json; spec_from_json is the way back.
nlohmann::ordered_json tokenizer_to_json(const TokenizerSpec& spec);

}  // namespace reprise
