// Writes PyTorch's .pt files: a zip archive with a pickled dict of tensors, as torch.save does for
// a state_dict. torch.load reads it, weights_only included, and so does open_pt.
#pragma once

#include <filesystem>
#include <vector>

#include "formats/tensor_view.h"

namespace reprise {

// One entry a tensor, in the given order. Tensors whose `data` is the same memory share a storage,
// as the entries of a list that holds one module several times do. Atomic. Throws Error naming the
// path when a name comes twice, a tensor is quantized, or all data exceeds 2 GiB (no zip64).
void write_pt(const std::filesystem::path& path, const std::vector<TensorView>& tensors);

}  // namespace reprise
