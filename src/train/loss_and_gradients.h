// Loss and gradients of one batch that is given as tensors: what the parity tests compare.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/train_backend.h"
#include "model/model.h"

namespace reprise {

struct LossAndGradients {
  double loss = 0;            // mean over counted labels
  std::vector<float> logits;  // [n, vocabulary] that it was made of
  std::vector<std::pair<std::string, std::vector<float>>> gradients;  // by tensor name
};

// embeds [n, d] with labels [n] (-100: not counted), label t belonging to row t and predicted by
// row t - 1; is_image [n]: 1 at image tokens, empty where there are none. Where the model's own code
// selects loops, the logits are the mean of all loops', as that code has it beside labels. A backend
// that doesn't train gives no gradients. Throws Error where no label counts.
LossAndGradients loss_and_gradients(Model& model, Backend& backend, const Tensor& embeds,
                                    std::span<const int64_t> labels,
                                    std::vector<uint8_t> is_image = {});

}  // namespace reprise
