// The optimizer's side of a step: schedule, clipping, AdamW.
#pragma once

#include "train/loop/run.h"
#include "train/loop/step_report.h"

namespace reprise {

// The learning rate of a step (0-based): linear warm-up, then lr, or a cosine from lr to min_lr
// that is over at `steps`. at_least: share of it that is over by other means (the clock), 0 to 1.
double learning_rate(const OptimizerRecipe& optimizer, int64_t step, int64_t steps,
                     double at_least = 0);

// Moves the weights by the gradients that there are. index: the step, 0-based; time_used: share of
// the run's time budget. Throws Diverged where the gradients are no longer finite.
void optimizer_step(TrainRun& run, int64_t index, double time_used, StepReport& report);

}  // namespace reprise
