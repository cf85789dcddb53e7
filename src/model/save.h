// One GGUF file with everything inside: weights under their Hugging Face names, config.json under
// "reprise.config" (its end tokens with those of generation_config.json, which the file doesn't
// carry), the tokenizer's files. Lossless for F32: a folder can be made from it again.
#pragma once

#include <filesystem>
#include <string>

#include "model/model.h"

namespace reprise {

struct SaveOptions {
  // Type of the language model's matrices and tables (F32, F16, BF16 or Q8_0); everything else,
  // vision tower, gates and phantom matrices included, stays F32. Where a row's length is no
  // multiple of the block size, F32 too.
  DType type = DType::F32;
  std::string name;         // general.name
  std::string chat_format;  // kept as "reprise.chat_format" of the config; empty: as it is there
  GgufMetadata metadata;    // further keys: the tokenizer's (text/tokenizer/tokenizer_files.h)
};

// Atomic. Throws Error naming the path.
void save_gguf(Model& model, const std::filesystem::path& path, const SaveOptions& options);

}  // namespace reprise
