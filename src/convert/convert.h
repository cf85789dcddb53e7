// Conversion of whole models: a Hugging Face folder into one GGUF file with everything inside, and
// back; from either to either, in other types where asked for (types.h). A GGUF file of llama.cpp's
// becomes a folder too (folder_form.h).
//
// Goals: without a change of types the way there and back gives the same tensors (names, types,
// shapes, bits), the same config.json and the same small files, whatever the model; memory bounded
// by one tensor; the target is there as a whole or not at all. Not a goal: the bytes of the
// weight files themselves (their order, headers and shards).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "convert/source.h"
#include "convert/tensor_converter.h"
#include "convert/types.h"

namespace reprise {

struct ConvertOptions {
  TypeRules types;
  int threads = 1;
  bool replace = false;  // what is at the target already
  // To GGUF: keys and their texts, in place of what the source has there; nullopt: without the key.
  std::map<std::string, std::optional<std::string>> keys = {};
  // Data of one safetensors file at most (a larger tensor has one of its own); above it, shards
  // with an index.
  int64_t shard_bytes = 5'000'000'000;
  // Bytes of the source's tensors done so far, their sum, and the tensor that is on. May throw to
  // stop: then nothing is left of the target.
  std::function<void(int64_t done, int64_t total, const std::string& tensor)> progress;
};

struct ConvertedTensor {
  std::string name;
  std::string role;  // role_name; "other" for what the model doesn't use
  Shape shape;
  DType from, to;
  int64_t bytes = 0;  // stored
  TypeNote note = TypeNote::None;
  ConversionError error;
};

struct ConvertResult {
  std::vector<ConvertedTensor> tensors;
  std::vector<std::string> files;  // names in a folder; empty for a GGUF file
  std::vector<std::string> notes;  // for people
  int64_t source_bytes = 0;        // of all tensors
  int64_t bytes = 0;
};

// Throws Error naming path and tensor; `target` is then what it was before.
ConvertResult convert_to_gguf(const ConversionSource& source, const std::filesystem::path& target,
                              const ConvertOptions& options);
// Quantized tensors become F32 (exactly) unless options.types asks for F16 or BF16; where it asks
// for any of these three, config.json's torch_dtype says so too.
ConvertResult convert_to_folder(const ConversionSource& source, const std::filesystem::path& target,
                                const ConvertOptions& options);

}  // namespace reprise
