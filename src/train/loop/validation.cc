#include "train/loop/validation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/loop/diverged.h"

namespace reprise {
namespace {

// How many of the batch's answers have the largest logit at each of their tokens.
int64_t exact_answers(const Batch& batch, const std::vector<float>& logits, int64_t vocab) {
  const auto is_largest = [&](int64_t i) {
    const float* row = logits.data() + i * vocab;
    return std::max_element(row, row + vocab) - row == batch.targets[static_cast<size_t>(i)];
  };
  return std::ranges::count_if(batch.answers, [&](const AnswerTargets& answer) {
    bool all = true;
    for (int64_t i = answer.first; i < answer.first + answer.count; ++i) all &= is_largest(i);
    return all;
  });
}

}  // namespace

void validate(TrainRun& run, StepReport& report) {
  const int64_t size = std::min(run.batches.validation_size(), run.recipe.validation_limit);
  if (size == 0) return;
  run.backend.set_recording(false);
  double loss = 0;
  int64_t tokens = 0, answers = 0, exact = 0;
  for (int64_t begin = 0; begin < size; begin += run.recipe.batch) {
    const Batch batch = run.batches.validation(begin, std::min(size, begin + run.recipe.batch));
    const Model::Results forward = run_forward(run.model, run.plan, batch);
    const Tensor logits = target_logits(run.model, batch, forward.state);
    loss += run.backend.to_host(run.backend.cross_entropy_sum(logits, batch.targets))[0];
    tokens += static_cast<int64_t>(batch.targets.size());
    if (batch.answers.empty()) continue;  // the logits stay where they are
    answers += static_cast<int64_t>(batch.answers.size());
    exact += exact_answers(batch, run.backend.to_host(logits), logits.cols());
  }
  run.backend.set_recording(true);
  report.validation_loss = loss / static_cast<double>(std::max<int64_t>(1, tokens));
  if (!std::isfinite(*report.validation_loss))
    diverged(run.recipe, fmt::format("the validation loss is {}", *report.validation_loss),
             report.step);
  if (answers > 0)
    report.validation_exact = static_cast<double>(exact) / static_cast<double>(answers);
}

}  // namespace reprise
