// The forward and backward passes of one step.
#pragma once

#include <span>
#include <vector>

#include "train/loop/run.h"
#include "train/loop/step_report.h"

namespace reprise {

// The next step's forward calls (recipe.accumulate of them). Where they are several, without the
// inputs that can be made again.
std::vector<Batch> next_batches(TrainRun& run);

// Gradients of the objective's loss over all of them. Every term is a mean over the whole step, so
// that it doesn't matter how its items are spread over the calls. index: the step, 0-based. Throws
// Diverged where the loss is no longer finite.
StepReport compute_gradients(TrainRun& run, int64_t index, std::span<Batch> batches);

}  // namespace reprise
