// safetensors: 8 bytes of header length (little-endian), a JSON header, then the data. Format as
// described at https://github.com/huggingface/safetensors ("Format").
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/weights.h"

namespace reprise {

struct SafetensorsFile {
  WeightFile weights;                           // in the order of their data in the file
  std::map<std::string, std::string> metadata;  // "__metadata__"
};

// Maps the file and checks all of the header before use: its length (at most 100 MB, inside the
// file), names (no duplicates), types (F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL), sizes (type times
// shape), and that the tensors cover the data without overlap, hole or rest. Throws Error naming
// the file and the tensor. Data of a tensor may be misaligned (see TensorView).
SafetensorsFile open_safetensors(const std::filesystem::path& path);

// Opens `index` (model.safetensors.index.json) and the shards beside it that it names. Shards that
// don't exist, names that leave the folder, tensors that are not in the shard given for them: all
// that is wrong is listed in one Error, or noted in `problems` and what could be read returned.
// Tensors that the index doesn't name are left out. `unread` gets the names that it does name and
// that could not be read.
WeightFile open_safetensors_index(const std::filesystem::path& index, Problems* problems = nullptr,
                                  std::set<std::string>* unread = nullptr);

// Writes one file, atomically. Data is stored with the widest element types first, else in the
// given order, so that each tensor is aligned for its type. Throws Error when a tensor is
// quantized, a name comes twice or is "__metadata__".
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace reprise
