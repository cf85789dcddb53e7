// Phantom Optimization (arXiv 2409.14713, section 3.3): a preference term without a reference
// model, in the form of SimPO (arXiv 2405.14734), beside the ordinary loss.
//
//   margin = beta / |y+| log pi(y+ | x) - beta / |y-| log pi(y- | x) - gamma
//   L      = SFT(y+) + mean over pairs of -log sigmoid(margin)
//
// y+ the right answer, y- the confusing wrong one, |y| its number of counted tokens. SFT is the
// mean cross entropy over all counted tokens of right answers (the paper doesn't say how it
// averages).
#pragma once

#include <span>

#include "backend/train_backend.h"
#include "train/data/batch.h"

namespace reprise {

struct PreferenceOptions {
  double beta = 2;
  double gamma = 0.5;
};

struct AnswerLoss {
  Tensor sft;         // [1]: sum of -log p over the targets of right answers
  Tensor preference;  // [1]: sum of -log sigmoid(margin) over pairs; unset without pairs
  Tensor margins;     // [pairs]; unset without pairs
};

// logits [targets, vocabulary]; answers cover the targets in order. A label of -100 isn't counted.
AnswerLoss answer_loss(TrainBackend& backend, const Tensor& logits,
                       std::span<const int32_t> targets, std::span<const AnswerTargets> answers,
                       const PreferenceOptions& options);

}  // namespace reprise
