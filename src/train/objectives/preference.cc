#include "train/objectives/preference.h"

#include <algorithm>

namespace reprise {
namespace {

int64_t counted(std::span<const int32_t> targets, const AnswerTargets& answer) {
  const auto begin = targets.begin() + answer.first;
  return std::count_if(begin, begin + answer.count, [](int32_t target) { return target != -100; });
}

}  // namespace

// Sums over answers are a product of the rows' losses with a small constant matrix.
AnswerLoss answer_loss(TrainBackend& backend, const Tensor& logits,
                       std::span<const int32_t> targets, std::span<const AnswerTargets> answers,
                       const PreferenceOptions& options) {
  const auto n = static_cast<int64_t>(targets.size());
  int64_t pairs = 0;
  for (const AnswerTargets& answer : answers) pairs += answer.rejected;
  AnswerLoss loss;
  if (pairs == 0) {
    loss.sft = backend.cross_entropy_sum(logits, targets);
    return loss;
  }
  // Row 0: which targets are right answers'. Row 1 + p: the margin of pair p, from -log p.
  std::vector<float> sums(static_cast<size_t>((1 + pairs) * n));
  int64_t pair = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    const AnswerTargets& answer = answers[i];
    if (answer.rejected) {
      REPRISE_CHECK(i > 0 && !answers[i - 1].rejected, "answer {} has no right one before it", i);
      float* row = sums.data() + (1 + pair++) * n;
      for (const AnswerTargets& side : {answers[i - 1], answer}) {
        const int64_t tokens = counted(targets, side);
        REPRISE_CHECK(tokens > 0, "answer {}: no counted target", i);
        const double weight = options.beta / static_cast<double>(tokens);
        std::fill_n(row + side.first, side.count,
                    static_cast<float>(side.rejected ? weight : -weight));
      }
    } else {
      std::fill_n(sums.begin() + answer.first, answer.count, 1.0f);
    }
  }
  const Tensor all =
      backend.weighted_sums(backend.cross_entropy_rows(logits, targets), sums);  // [1 + pairs]
  loss.sft = backend.slice(all, 0, 0, 1);
  const std::vector<float> gamma(static_cast<size_t>(pairs), static_cast<float>(options.gamma));
  loss.margins =
      backend.add(backend.slice(all, 0, 1, 1 + pairs), backend.from_host(gamma, {pairs}), -1.0f);
  const std::vector<float> ones(static_cast<size_t>(pairs), -1.0f);
  loss.preference = backend.weighted_sums(backend.log_sigmoid(loss.margins), ones);
  return loss;
}

}  // namespace reprise
