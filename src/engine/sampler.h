// Choosing the next token from logits. The draw for step i of a request depends only on (seed, i):
// the same request gives the same tokens alone or in a batch, on one thread or many.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace reprise {

// Applied in this order: temperature, top-k, top-p, min-p.
struct SamplerOptions {
  float temperature = 0;  // 0: greedy; the filters below it have no effect then
  int top_k = 0;          // keep the k most likely tokens; 0: all
  float top_p = 1;        // keep the fewest tokens that reach this probability; 1: all
  float min_p = 0;        // keep tokens at least this fraction of the most likely one; 0: all
  uint64_t seed = 0;

  // Throws Error naming the option that is out of range.
  void check() const;
};

class Sampler {
 public:
  // Throws Error as SamplerOptions::check does.
  explicit Sampler(const SamplerOptions& options);

  // The token of generation step `step` (0 for the first one). logits [vocab]. Greedy ties go to
  // the lowest id. Throws Error naming the step when a logit is NaN or none is finite.
  int32_t sample(std::span<const float> logits, int64_t step);

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  // Cuts candidates_ down to those that top-k, top-p and min-p leave.
  void filter();

  SamplerOptions options_;
  std::vector<Candidate> candidates_;  // work memory
};

// Lowest id of the largest value. Throws Error naming `what` when a value is NaN or none is finite.
int32_t argmax(std::span<const float> logits, const std::string& what);

}  // namespace reprise
