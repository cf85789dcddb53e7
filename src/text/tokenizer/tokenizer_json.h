// BPE tokenizers of Hugging Face folders: tokenizer.json (the format of the `tokenizers`
// package) with tokenizer_config.json. What a file asks for and this reader does not know is an
// Error naming file and key, never left out silently.
//
// Known: model BPE; normalizer none, NFC or a Sequence of NFC; pre_tokenizer ByteLevel, or a
// Sequence of Split (Isolated, or Removed with invert), Digits and, last, ByteLevel; post_processor
// ByteLevel, TemplateProcessing or a Sequence of these; decoder ByteLevel. Or, for vocabularies of
// characters, what metaspace_json.h lists.
#pragma once

#include <memory>
#include <string>

#include "base/json_fwd.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

// tokenizer.json alone: no BOS/EOS roles and no chat template are known. `where` names the file in
// error messages.
TokenizerSpec spec_from_json(const Json& tokenizer, const std::string& where);

// tokenizer.json with what stands beside it (tokenizer_config.h).
TokenizerSpec spec_from_files(const TokenizerFiles& files);

}  // namespace reprise
