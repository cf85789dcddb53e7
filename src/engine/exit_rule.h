// When a token leaves a looped model: at each loop end it gets a score, which is compared with the
// request's threshold. Both are the token's own: whatever runs beside it, it leaves where it would
// leave alone.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace reprise {

class ExitRule {
 public:
  // The model must outlive the rule. Throws Error as Model::check_exit does.
  ExitRule(const Model& model, const Plan& plan, const ExitConfig& config);

  const ExitConfig& config() const { return config_; }
  int loops() const { return loops_; }
  // Whether scores are made from the logits of the loop end.
  bool reads_logits() const {
    return config_.kind == ExitKind::Confidence || config_.kind == ExitKind::Entropy;
  }
  // By row at the end of loop `loop` (0-based). state: [rows, d], before the loop end's norm;
  // previous: the same rows' at the loop end before, or none; logits: [rows, vocab], empty where
  // they aren't read. NaN: there is no score here, and a token does not leave.
  std::vector<double> scores(int loop, const Tensor& state, const Tensor& previous,
                             std::span<const float> logits) const;
  bool leaves(double score) const {
    return config_.kind == ExitKind::Entropy ? score <= config_.threshold
                                             : score >= config_.threshold;
  }

 private:
  const Model& model_;
  ExitConfig config_;
  int loops_;
};

// Of one row's logits: the largest probability of their softmax, and its entropy in nats.
double confidence(std::span<const float> logits);
double entropy(std::span<const float> logits);
// a.b / (|a| |b|), summed in double; 0 where one of them is zero.
double cosine(std::span<const float> a, std::span<const float> b);

}  // namespace reprise
