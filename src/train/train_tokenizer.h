// The tokenizer of a model in training: found beside the model, and written into what is exported.
#pragma once

#include <memory>
#include <string>

#include "formats/gguf.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace reprise {

struct TrainTokenizer {
  std::string where;   // file, for messages
  std::string json;    // text of tokenizer.json; empty where the keys of a GGUF file are the source
  TokenizerSpec spec;  // set where json is empty

  // Throws Error naming `where`.
  std::unique_ptr<Tokenizer> make() const;
  // The id of the token with this text; a new special token `id` where there is none.
  int64_t find_or_add(const std::string& text, int64_t id);
  int64_t size() const;  // ids are 0 .. size - 1
  // As keys of a GGUF file to be written; vocab_size: rows of the embedding.
  void write(int64_t vocab_size, GgufMetadata& metadata) const;
};

TrainTokenizer read_tokenizer_file(const std::filesystem::path& path);  // a tokenizer.json
// The tokenizer inside a model's folder or file. Throws Error naming `hint` (what the user can do)
// where there is none.
TrainTokenizer tokenizer_of(const ModelFiles& files, const std::string& hint);

}  // namespace reprise
