// Reading a model's config from GGUF keys; see model.h for loading as a whole.
#pragma once

#include "formats/gguf.h"
#include "model/config.h"

namespace reprise {

// Throws Error naming file and key.
ModelConfig config_from_gguf(const GgufFile& file);
// Rope factors that GGUF files keep as tensors.
RopeConfig gguf_rope_factors(const GgufFile& file, const std::string& arch, RopeConfig rope);

}  // namespace reprise
