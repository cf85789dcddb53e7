#include "train/loop/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/loop/diverged.h"

namespace reprise {

double learning_rate(const OptimizerRecipe& o, int64_t step, int64_t steps, double at_least) {
  if (step < o.warmup_steps)
    return o.lr * static_cast<double>(step + 1) / static_cast<double>(o.warmup_steps);
  if (o.constant) return o.lr;
  const int64_t span = std::max<int64_t>(1, steps - o.warmup_steps);
  const double progress = std::min(
      1.0,
      std::max(at_least, static_cast<double>(step - o.warmup_steps) / static_cast<double>(span)));
  return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

void optimizer_step(TrainRun& run, int64_t index, double time_used, StepReport& report) {
  const OptimizerRecipe& optimizer = run.recipe.optimizer;
  report.gradient_norm = run.backend.clip_gradients(run.weights.trainable, optimizer.clip);
  if (!std::isfinite(report.gradient_norm))
    diverged(run.recipe, fmt::format("the gradients' norm is {}", report.gradient_norm), index + 1);
  report.learning_rate =
      learning_rate(optimizer, index, run.recipe.steps, std::min(1.0, time_used));
  AdamWOptions adam;
  adam.lr = static_cast<float>(report.learning_rate);
  adam.beta1 = static_cast<float>(optimizer.beta1);
  adam.beta2 = static_cast<float>(optimizer.beta2);
  adam.eps = static_cast<float>(optimizer.eps);
  for (const TrainWeight& weight : run.weights.all) {
    if (!weight.trained) continue;
    adam.weight_decay = weight.decays ? static_cast<float>(optimizer.weight_decay) : 0.0f;
    run.backend.adamw_step(weight.tensor, adam);
  }
}

}  // namespace reprise
