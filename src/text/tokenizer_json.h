// Byte-level BPE tokenizers of Hugging Face folders: tokenizer.json (the format of the `tokenizers`
// package) with tokenizer_config.json. What a file asks for and this reader does not know is an
// Error naming file and key, never left out silently.
//
// Known: model BPE; normalizer none, NFC or a Sequence of NFC; pre_tokenizer ByteLevel, or a
// Sequence of Split (Isolated, or Removed with invert), Digits and, last, ByteLevel; post_processor
// ByteLevel, TemplateProcessing or a Sequence of these; decoder ByteLevel.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace reprise {

// `config` may be nullptr: then no BOS/EOS roles and no chat template are known. `where` names the
// file in error messages.
TokenizerSpec spec_from_json(const Json& tokenizer, const Json* config, const std::string& where);
std::unique_ptr<Tokenizer> tokenizer_from_json(const Json& tokenizer, const Json* config,
                                               const std::string& where);

// Reads FOLDER/tokenizer.json and, where they exist, tokenizer_config.json and chat_template.jinja
// (which counts before the config's own chat_template).
TokenizerSpec spec_from_folder(const std::filesystem::path& folder);
std::unique_ptr<Tokenizer> tokenizer_from_folder(const std::filesystem::path& folder);

}  // namespace reprise
