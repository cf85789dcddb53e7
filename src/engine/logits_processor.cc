#include "engine/logits_processor.h"

#include <cmath>

#include "base/error.h"

namespace reprise {

RepetitionPenalty::RepetitionPenalty(float penalty) : penalty_(penalty) {
  if (!(penalty > 0) || std::isinf(penalty)) {
    fail("repetition penalty: expected a number above 0, found {}", penalty);
  }
}

void RepetitionPenalty::process(std::span<float> scores, std::span<const int32_t> prompt,
                                std::span<const int32_t> answer) const {
  std::vector<bool> done(scores.size());
  for (const std::span<const int32_t> tokens : {prompt, answer}) {
    for (const int32_t token : tokens) {
      const auto i = static_cast<size_t>(token);  // negative ids become large ones
      if (i >= scores.size() || done[i]) continue;
      done[i] = true;
      scores[i] = scores[i] < 0 ? scores[i] * penalty_ : scores[i] / penalty_;
    }
  }
}

}  // namespace reprise
