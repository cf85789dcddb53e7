// The forward pass of training, in one place: a batch's rows through a plan.
#pragma once

#include <vector>

#include "model/model.h"
#include "train/data/batch.h"

namespace reprise {

struct ForwardResult {
  Tensor state;  // [rows, d] after the plan's last step, before the final norm
  // [rows, d] each: the states at the plan's LoopEnds in order, before the final norm (a plan's
  // exits, where a token may leave); empty unless they were asked for.
  std::vector<Tensor> exits;
};

// The batch's inputs must be there (Batch::make_inputs).
ForwardResult run_forward(Model& model, const Plan& plan, const Batch& batch, bool exits = false);

}  // namespace reprise
