// Low-rank adapters on frozen matrices (LoRA, arXiv 2106.09685) and base weights in few bits
// (QLoRA, arXiv 2305.14314) in a training run: chosen by name pattern, trained, stored, merged.
//
// y = W x + alpha / r B (A dropout(x)); A is drawn from +-1 / sqrt(in), B begins as zeros, so that
// a run begins as the model it begins with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "model/model.h"
#include "train/recipe/recipe.h"

namespace reprise {

struct TrainedAdapter {
  std::string target;  // name of the matrix without ".weight"
  Tensor weight;
  LowRank pair;
};

// What quantizing one tensor cost.
struct QuantizedTensor {
  std::string name;
  Shape shape;
  QuantizationError error;
};

// Attaches an adapter to every matrix of a block, of the vision tower or of the projector, and to
// an untied head, that a pattern of recipe.lora.targets matches. Gates, phantom matrices and
// adapters of the model's own are left alone. With lora.from, values come from that file. Throws
// Error naming recipe, key and pattern where one matches nothing, and file and tensor.
std::vector<TrainedAdapter> attach_adapters(const Recipe& recipe, Model& model,
                                            TrainBackend& backend);

// Puts the matrices that match recipe.quantize.targets into few bits (the same kinds of matrices).
// trained: names of tensors that are trained themselves, which is an Error.
std::vector<QuantizedTensor> quantize_base(const Recipe& recipe, Model& model,
                                           TrainBackend& backend,
                                           const std::vector<std::string>& trained);
// One JSON line a tensor: name, shape, type, relative_rms, largest.
void write_quantization_log(const std::filesystem::path& path, const Recipe& recipe,
                            const std::vector<QuantizedTensor>& tensors);

// A safetensors file with "<target>.lora_A.weight" [r, in] and "<target>.lora_B.weight" [out, r]
// for each; r and alpha in the metadata. Atomic.
void save_adapters(const std::filesystem::path& path, const Recipe& recipe, Backend& backend,
                   const std::vector<TrainedAdapter>& adapters);

}  // namespace reprise
