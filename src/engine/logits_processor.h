// What changes logits before a token is chosen from them, besides the sampler's own filters.
// Processors hold no state of a request: one object serves any number of answers at once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace reprise {

class LogitsProcessor {
 public:
  virtual ~LogitsProcessor() = default;
  // scores [n]: of tokens 0 to n - 1, changed in place: logits, or in a beam search of several beams
  // log-probabilities. prompt, answer: the tokens so far; ids outside the scores (placeholders of
  // pictures) are of no concern.
  virtual void process(std::span<float> scores, std::span<const int32_t> prompt,
                       std::span<const int32_t> answer) const = 0;
};

// In the order in which they apply.
using LogitsProcessors = std::vector<std::shared_ptr<const LogitsProcessor>>;

// Makes tokens of prompt and answer less likely: positive scores are divided, negative ones
// multiplied by the penalty, once whatever the number of times (Keskar et al., "CTRL", 2019,
// section 4.1, as transformers computes it).
class RepetitionPenalty : public LogitsProcessor {
 public:
  // penalty: above 0; below 1 it makes them more likely. Throws Error otherwise.
  explicit RepetitionPenalty(float penalty);
  void process(std::span<float> scores, std::span<const int32_t> prompt,
               std::span<const int32_t> answer) const override;

 private:
  float penalty_;
};

}  // namespace reprise
