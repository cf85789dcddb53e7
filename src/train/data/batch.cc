#include "train/data/batch.h"

#include <algorithm>

namespace reprise {

int64_t Batch::right_targets() const {
  int64_t count = 0;
  for (const AnswerTargets& answer : answers) count += answer.rejected ? 0 : answer.count;
  return count;
}

int64_t Batch::pairs() const {
  return std::count_if(answers.begin(), answers.end(),
                       [](const AnswerTargets& answer) { return answer.rejected; });
}

void Batch::drop_inputs() {
  if (make_pixels) pixels = std::vector<float>();  // assigning {} would keep the memory
}

void Batch::make_inputs() {
  if (tiles > 0 && pixels.empty()) pixels = make_pixels();
}

}  // namespace reprise
