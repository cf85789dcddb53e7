// The parts of a tokenizer.json that write spaces as U+2581 (Llama-2's, Phi-3's and other files
// converted from SentencePiece): normalizer none, Replace, or a Sequence of Prepend and Replace;
// pre_tokenizer none, Metaspace, or behind Replace a Split at spaces (Gemma's, which finds none);
// decoder Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip.
#pragma once

#include "base/json_object.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

// Whether the file is of this kind: byte_fallback, or steps that only such files have.
bool is_metaspace(const JsonObject& root);
// Sets spec.metaspace. Throws Error naming the key for steps that aren't known.
void read_metaspace(const JsonObject& root, TokenizerSpec& spec);

// root[key] as a list of steps: none, the one, or those of a Sequence under `list_key`.
std::vector<JsonObject> json_steps(const JsonObject& root, const std::string& key,
                                   const std::string& list_key);

}  // namespace reprise
