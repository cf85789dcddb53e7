// When a token leaves a looped model: at each loop end it gets a score, which is compared with the
// request's threshold. Both are the token's own: whatever runs beside it, it leaves where it would
// leave alone.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace reprise {

// What a learned gate makes of the loops: loop t is left with probability lambda_t times that of
// having stayed so far, the last loop takes what remains. In F32, the running sum in double and
// rounded, as the code that such gates were published with: a lambda that rounds to 1 leaves for sure.
class ExitOdds {
 public:
  // The probability to leave at the next loop, whose gate gives lambda.
  float next(float lambda, bool last) {
    const float p = last ? remaining_ : lambda * remaining_;
    remaining_ *= 1.0f - lambda;
    sum_ += p;
    return p;
  }
  float cdf() const { return static_cast<float>(sum_); }  // of all loops so far

 private:
  float remaining_ = 1;
  double sum_ = 0;
};
// lambda from a gate's logit.
float gate_probability(float logit);

// What a rule keeps of a token from one loop end to the next.
struct ExitMemory {
  // At the loop end before, [d]; of Similarity. Of LatentDiff and Cosine of all its rows, [rows, d],
  // in the first loop the initial states: whoever has the plan puts them there.
  std::vector<float> state;
  ExitOdds odds;                 // of Cdf
  std::vector<float> log_probs;  // [vocab] at the loop end before; of Kl and MinPKl
  double entropy = 100;          // the same of EntropyDiff
  int64_t top = -1;              // the likeliest token; of ArgmaxStability
  int64_t stable = 0;            // how many times in a row it has been that
};

class ExitRule {
 public:
  // The model must outlive the rule. Throws Error as Model::check_exit does.
  ExitRule(const Model& model, const Plan& plan, const ExitConfig& config);

  const ExitConfig& config() const { return config_; }
  int loops() const { return loops_; }
  // Whether scores are made from the logits of the loop end.
  bool reads_logits() const {
    return config_.kind == ExitKind::Confidence || config_.kind == ExitKind::Entropy ||
           reads_answers();
  }
  // Whether these are the logits that leaving gives, with the layers behind the loops. Others are
  // the head's on the state of the loop end.
  bool reads_answers() const {
    return config_.kind == ExitKind::Kl || config_.kind == ExitKind::MinPKl ||
           config_.kind == ExitKind::EntropyDiff || config_.kind == ExitKind::ArgmaxStability;
  }
  // Whether of a token that is a whole prompt all rows count, not the last one alone.
  bool reads_all_rows() const {
    return config_.kind == ExitKind::LatentDiff || config_.kind == ExitKind::Cosine;
  }
  // By token at the end of loop `loop` (0-based). state: [tokens, d], before the loop end's norm, and
  // `rows` of each token where it reads all of them; logits: [tokens, vocab], empty where they aren't
  // read; memory: by token, of those that were asked at every loop end before this one. NaN: there is
  // no score here, and a token does not leave.
  std::vector<double> scores(int loop, const Tensor& state, std::span<const float> logits,
                             std::span<ExitMemory* const> memory,
                             std::span<const int64_t> rows = {}) const;
  bool leaves(double score) const;

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
