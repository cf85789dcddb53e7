// Beam search: the N most likely continuations side by side, instead of the one that greedy
// decoding follows. Each is an Answer, which knows its processors and when it ends; the search knows
// scores, and what runs the model is Branches::step.
//
// The rules are those of transformers' `generate` with num_beams = N and do_sample = False (4.51
// and later; releases before that differ in the order of equal scores only, see docs/decoding.md),
// in float32 as there:
//   - A candidate's score is the sum of its log-probabilities, as the logits processors leave them
//     (for one beam, which is greedy, they apply to logits). The best max(2, 1 + ends) * N
//     continuations of all beams are looked at; those that end (an end token, a stop text, the last
//     token allowed) are hypotheses if they are among the best N, the best N of the others go on.
//   - A hypothesis' score is its sum over length^length_penalty; the length counts generated
//     tokens, the end token included. The best N hypotheses are kept.
//   - The search ends when N hypotheses are kept and none of the running beams may beat the worst
//     of them: see EarlyStop.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/answer.h"
#include "engine/branches.h"

namespace reprise {

// When a search that has its N hypotheses ends (transformers: early_stopping).
enum class EarlyStop {
  No,    // False: when the best running beam, ended now, would not beat the worst hypothesis
  Yes,   // True: at once
  Never  // "never": when it couldn't beat it at any length up to the last
};
// "no", "yes", "never". Throws Error listing them.
EarlyStop parse_early_stop(std::string_view text);

struct BeamOptions {
  int beams = 1;     // 1: greedy
  int returned = 1;  // most hypotheses handed out, <= beams
  float length_penalty = 1;
  EarlyStop early_stop = EarlyStop::No;

  // Throws Error naming the option that is out of range.
  void check() const;
};

class BeamSearch {
 public:
  // A beam of the next forward call: the beam of the last call it goes on from, and its new token.
  struct Next {
    int parent = 0;
    int32_t token = 0;
  };
  struct Hypothesis {
    std::vector<int32_t> tokens;  // generated, the end token included
    std::string text;             // whole, up to its end
    float score = 0;              // sum of log-probabilities / length^length_penalty
    std::optional<StopReason> end;  // none: the search was stopped before
  };

  // answer: one that has no token yet; every beam is a copy of it. Its sampler has no part in this.
  // Throws Error as BeamOptions::check does, and when the search might never end.
  BeamSearch(const BeamOptions& options, Answer answer);

  // One step from logits [rows, vocab]: one row, the prompt's, in the first step; a row per next()
  // later. Throws Error naming the step when a logit is NaN, and when the vocabulary is too small
  // for the number of beams.
  void step(std::span<const float> logits, int64_t vocab);

  bool done() const { return done_; }
  const std::vector<Next>& next() const { return next_; }  // [beams]
  // Best first, `returned` at most; one at least once a step was made. Before the search is done,
  // running beams stand in for hypotheses that are missing.
  std::vector<Hypothesis> results() const;

 private:
  struct Beam {
    Answer answer;
    float score = 0;
    bool ended = false;  // as a hypothesis: not every answer that ended becomes one
  };
  void accumulate(std::span<const float> logits, int64_t vocab, int64_t allowed);
  float normalised(float score, int64_t length) const;
  bool may_improve() const;

  BeamOptions options_;
  std::vector<Beam> running_;   // [beams]; score: the sum
  std::vector<Beam> finished_;  // [beams], best first; score: normalised
  std::vector<Next> next_;
  std::vector<float> scores_;  // [beams * vocab] of the current step
  int64_t length_ = 0;         // tokens generated
  bool done_ = false;
};

// Runs a search from the logits [vocab] of a prompt's end until it is done or `cancelled` says so,
// which is asked between steps. Returns the number of forward calls made.
int64_t run_search(Branches& branches, BeamSearch& search, std::span<const float> logits,
                   const std::function<bool()>& cancelled = {});

// Indices of the k largest values, largest first, in the order in which torch.topk on a CPU returns
// equal values: it follows from the algorithms of the C++ library that both are built with
// (partial_sort for k * 64 <= n, else nth_element and sort).
std::vector<int64_t> top_k(std::span<const float> values, int64_t k);

}  // namespace reprise
