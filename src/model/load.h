// Reading a model's config from its files; see model.h for loading as a whole.
#pragma once

#include "formats/model_source.h"
#include "model/config/config.h"
#include "model/tensor_table.h"

namespace reprise {

// Of either kind of source, as below. What is wrong is noted; `holds`: nothing is.
ModelConfig read_config(const ModelSource& source, Problems& problems, bool& holds);
// How the source names the tensors of a model with this config.
TensorNames tensor_names(const ModelSource& source, const ModelConfig& config);

// From config.json and generation_config.json. What is wrong is noted, see config_from_json;
// `holds`: nothing is wrong with config.json.
ModelConfig config_from_folder(const HfFolder& folder, Problems& problems, bool& holds);
// Throws Error naming file and key.
ModelConfig config_from_gguf(const GgufFile& file);
// How a model's file names its tensors. gguf_style: a file of llama.cpp, not one of ours.
TensorNames tensor_names(const ModelConfig& config, bool gguf_style);

}  // namespace reprise
