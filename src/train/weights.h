// Which of a model's tensors a run trains: by the recipe's patterns, and the adapters it puts on
// them.
#pragma once

#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "model/model.h"
#include "train/adapters/adapters.h"
#include "train/recipe/recipe.h"

namespace reprise {

struct TrainWeight {
  std::string name;
  Tensor tensor;
  bool decays = false;  // weight decay: matrices and tables
  bool trained = false;
};

struct TrainedWeights {
  std::vector<TrainWeight> all;  // of the model, then of the adapters
  std::vector<Tensor> trainable;
  std::vector<TrainedAdapter> adapters;
  std::vector<QuantizedTensor> quantized;  // frozen matrices in few bits
  std::string frozen;  // fingerprint of what isn't trained, which checkpoints don't hold

  int64_t parameters() const;  // that are trained
};

// Marks the weights on the backend, quantizes and attaches adapters. Throws Error naming recipe,
// key and pattern where a pattern matches nothing, where nothing is left to train, and where an
// adapter's matrix is trained itself.
TrainedWeights choose_weights(const Recipe& recipe, Model& model, TrainBackend& backend);

}  // namespace reprise
