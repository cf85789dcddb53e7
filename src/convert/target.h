// Where a conversion writes: what may be there, and what a GGUF file of ours says beside tensors.
#pragma once

#include <filesystem>
#include <optional>

#include "convert/mixes.h"
#include "convert/source.h"
#include "formats/gguf.h"
#include "formats/output_tensor.h"

namespace reprise {

// Throws Error where `target` is the source or a part of it, or is there already and may not be
// replaced.
void check_target(const ConversionSource& source, const std::filesystem::path& target,
                  bool replace);
// The same, and where it is a folder that holds files but no model.
void check_target_folder(const ConversionSource& source, const std::filesystem::path& target,
                         bool replace);
// The same, and where it is a folder.
void check_target_gguf(const ConversionSource& source, const std::filesystem::path& target,
                       bool replace);

// Keys of a GGUF file with Hugging Face tensor names. The name is the source's; `config`: of the
// model that is written.
GgufMetadata own_metadata(const ConversionSource& source, const std::string& config_text,
                          const std::string& scheme, const StoredFiles& files);
// Says in llama.cpp's keys which mix the file has, or what most weights are stored as. `always`: else
// only where the keys are there already or something is quantized.
void set_file_type(GgufMetadata& metadata, const std::vector<OutputTensor>& tensors,
                   const TypeMix* mix, bool always);

}  // namespace reprise
