// The model as it is, on held-out examples.
#pragma once

#include "train/loop/run.h"
#include "train/loop/step_report.h"

namespace reprise {

// Sets validation_loss (mean cross entropy over all targets) and, where the examples have answers,
// validation_exact. Does nothing without held-out examples. Throws Diverged where the loss is no
// longer finite.
void validate(TrainRun& run, StepReport& report);

}  // namespace reprise
