// What a Hugging Face folder says of a model whose file is llama.cpp's: the way back from
// config_gguf.cc. Keys are those that transformers 4 and 5 both read.
#pragma once

#include <string>

#include "base/json_fwd.h"
#include "formats/gguf.h"

namespace reprise {

struct FolderConfig {
  JsonValue config;      // config.json, of F32: who writes other types says so in torch_dtype
  JsonValue generation;  // generation_config.json
  // Whether transformers itself has the architecture's code (of a looped model it has not).
  bool in_transformers = true;
};

// Throws Error naming file and key for what no folder can say.
FolderConfig folder_config(const GgufFile& file);

}  // namespace reprise
