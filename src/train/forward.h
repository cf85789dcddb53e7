// The forward pass of training, in one place: a batch's rows through a plan.
#pragma once

#include "model/model.h"
#include "train/data/batch.h"

namespace reprise {

// The batch's inputs must be there (Batch::make_inputs).
// exits: the states at the plan's LoopEnds are kept too.
Model::Results run_forward(const Model& model, const Plan& plan, const Batch& batch,
                           bool exits = false);

}  // namespace reprise
