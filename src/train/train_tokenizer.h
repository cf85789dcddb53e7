// The tokenizer of a model in training: found beside the model, and written into what is exported.
#pragma once

#include <memory>
#include <string>

#include "formats/gguf.h"
#include "model/model.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

struct TrainTokenizer {
  std::string where;     // file or folder, for messages
  TokenizerFiles files;  // of a folder, or of a GGUF file of ours
  GgufMetadata keys;  // where `files` has no vocabulary: the keys tokenizer.* of llama.cpp's file

  // Throws Error naming file and key.
  std::unique_ptr<Tokenizer> make() const;
  // The id of the token with this text; a new special token behind all others where there is none.
  int64_t find_or_add(const std::string& text);
  int64_t size() const;  // ids are 0 .. size - 1
  // As keys of a GGUF file to be written.
  void write(GgufMetadata& metadata) const;
};

// A tokenizer.json, or a folder with the files of tokenizer_files.h.
TrainTokenizer read_tokenizer(const std::filesystem::path& path);
// The tokenizer inside a model's folder or file. Throws Error naming `hint` (what the user can do)
// where there is none.
TrainTokenizer train_tokenizer_of(const ModelSource& source, const std::string& hint);

}  // namespace reprise
