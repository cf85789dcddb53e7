// Writing safetensors in other types and as the shards of a folder; safetensors.h has the short
// form.
#pragma once

#include "formats/output_tensor.h"
#include "formats/safetensors.h"

namespace reprise {

// One file, atomically, as write_safetensors(path, views, metadata) does.
void write_safetensors(const std::filesystem::path& path, const std::vector<OutputTensor>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const TensorWriter& writer = write_plainly);

// A folder's weights as transformers writes them: model.safetensors, or, where that would have more
// than `shard_bytes` of data, model-00001-of-0000N.safetensors, ... and the index
// model.safetensors.index.json. Tensors stay in the given order; one larger than shard_bytes has a
// file of its own. shard_bytes > 0. Returns the names of the files written.
std::vector<std::string> write_safetensors_folder(
    const std::filesystem::path& folder, const std::vector<OutputTensor>& tensors,
    const std::map<std::string, std::string>& metadata, int64_t shard_bytes,
    const TensorWriter& writer = write_plainly);

}  // namespace reprise
