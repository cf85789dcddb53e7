// How likely texts and answers are under many plans at once: what plans have in common from their
// first step on runs once. A state after a visit depends on the visits before it and on nothing
// behind it, and each visit has a KV row of its own, so a plan can go on from another's state.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/token_prompt.h"
#include "model/model.h"

namespace reprise {

// Tokens whose predictions count from one position on: a window of a text, a question with its
// answer.
struct JudgedPrompt {
  TokenPrompt prompt;
  int64_t first = 0;  // its logits predict the first token that counts
  int64_t predictions() const { return prompt.size() - 1 - first; }
};

// Windows and predictions as `reprise eval --perplexity` has them (perplexity.h). Throws Error as it
// does where the tokens fill no window.
std::vector<JudgedPrompt> judged_windows(std::span<const int32_t> tokens, int64_t ctx,
                                         std::optional<int32_t> bos);

class PlanScorer {
 public:
  // The model must outlive it.
  explicit PlanScorer(const Model& model);

  // By plan the sum of -log p of what counts, in nats; infinity where a plan's logits are no
  // numbers. The plans are parse_plan's. `cancelled` is asked between visits: nothing where it said
  // so. The sums are those that each plan gives alone, to the bit on the cpu backend.
  std::vector<double> nll(const JudgedPrompt& judged, std::span<const Plan> plans,
                          const std::function<bool()>& cancelled = {}) const;

 private:
  const Model& model_;
  bool shares_ = true;  // false: the scheme keeps more of a request than KV, so plans run whole
};

}  // namespace reprise
