#include "train/loop/gradients.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "train/loop/diverged.h"

namespace reprise {

std::vector<Batch> next_batches(TrainRun& run) {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < run.recipe.accumulate; ++i) {
    batches.push_back(run.batches.next());
    if (run.recipe.accumulate > 1) batches.back().drop_inputs();
  }
  return batches;
}

namespace {

// sum over terms of weight / items * sum. items: of the whole step.
Tensor weighted_loss(TrainBackend& backend, std::span<const LossTerm> terms,
                     std::span<const int64_t> items, std::span<const Tensor> sums) {
  REPRISE_CHECK(sums.size() == terms.size());
  Tensor loss;
  for (size_t t = 0; t < terms.size(); ++t) {
    if (!sums[t]) continue;
    const float factor =
        static_cast<float>(terms[t].weight) / static_cast<float>(std::max<int64_t>(1, items[t]));
    loss = loss ? backend.add(loss, sums[t], factor) : backend.scale(sums[t], factor);
  }
  REPRISE_CHECK(loss, "the objective gives no term of its loss");
  return loss;
}

}  // namespace

StepReport compute_gradients(TrainRun& run, int64_t index, std::span<Batch> batches) {
  const std::span<const LossTerm> terms = run.objective.terms();
  StepReport report;
  report.step = index + 1;
  report.steps = run.recipe.steps;
  std::vector<int64_t> items(terms.size(), 0);
  for (const Batch& batch : batches) {
    const std::vector<int64_t> of_batch = run.objective.items(batch);
    for (size_t t = 0; t < items.size(); ++t) items[t] += of_batch[t];
    report.tokens += batch.rows.size();
  }
  const auto mean = [&](double sum, size_t term) {
    return sum / static_cast<double>(std::max<int64_t>(1, items[term]));
  };
  run.backend.zero_gradients(run.weights.trainable);
  for (size_t i = 0; i < batches.size(); ++i) {
    Batch& batch = batches[i];
    batch.make_inputs();
    Clock::time_point start = Clock::now();
    const auto lap = [&] {
      const double seconds = seconds_since(start);
      start = Clock::now();
      return seconds;
    };
    run.backend.begin_pass(run.recipe.seed, static_cast<uint64_t>(index * run.recipe.accumulate +
                                                                  static_cast<int64_t>(i)));
    const Model::Results forward =
        run_forward(run.model, run.plan, batch, run.objective.needs().exits);
    report.seconds["forward"] += lap();
    const BatchLoss parts = run.objective.loss(run.model, run.backend, batch, forward);
    const Tensor loss = weighted_loss(run.backend, terms, items, parts.sums);
    for (size_t t = 0; t < terms.size(); ++t)
      if (parts.sums[t] && !terms[t].name.empty())
        report.values[terms[t].name] += mean(run.backend.to_host(parts.sums[t])[0], t);
    for (const Measure& measure : parts.measures)
      report.values[measure.name] += mean(measure.sum, measure.term);
    report.loss += run.backend.to_host(loss)[0];
    report.seconds["loss"] += lap() - parts.teacher_seconds;
    if (parts.teacher_seconds > 0) report.seconds["teacher"] += parts.teacher_seconds;
    run.backend.backward(loss);
    report.seconds["backward"] += lap();
    batch.drop_inputs();
  }
  if (!std::isfinite(report.loss))
    diverged(run.recipe, fmt::format("the loss is {}", report.loss), index + 1);
  return report;
}

}  // namespace reprise
