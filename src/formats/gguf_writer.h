// Writing GGUF with a writer of one's own for the tensors' data; gguf.h has the short form.
#pragma once

#include "formats/gguf.h"
#include "formats/output_tensor.h"

namespace reprise {

// Version 3, atomic; tensors are streamed in the given order through `writer`. The alignment is the
// metadata's general.alignment, 32 without it. Throws Error naming path and tensor.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<OutputTensor>& tensors,
                const TensorWriter& writer = write_plainly);

}  // namespace reprise
