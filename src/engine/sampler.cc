#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/rng.h"

namespace reprise {

namespace {

constexpr uint64_t kSamplingStream = 0x73616d706c65;  // keeps draws apart from other uses of a seed

// Uniform in [0, 1) with 53 bits.
double draw(uint64_t seed, int64_t step) {
  const Philox random(seed, kSamplingStream);
  const uint64_t i = 2 * static_cast<uint64_t>(step);
  const uint64_t bits = (uint64_t{random.bits(i)} << 32) | random.bits(i + 1);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

void SamplerOptions::check() const {
  if (!(temperature >= 0) || std::isinf(temperature)) {
    fail("temperature: expected a number of 0 or more, found {}", temperature);
  }
  if (top_k < 0) fail("top-k: expected 0 or more, found {}", top_k);
  if (!(top_p > 0 && top_p <= 1)) fail("top-p: expected a number in (0, 1], found {}", top_p);
  if (!(min_p >= 0 && min_p <= 1)) fail("min-p: expected a number in [0, 1], found {}", min_p);
}

int32_t argmax(std::span<const float> logits, const std::string& what) {
  REPRISE_CHECK(!logits.empty());
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) fail("{}: logits are NaN (token {})", what, i);
    if (logits[i] > logits[best]) best = i;
  }
  if (!std::isfinite(logits[best])) fail("{}: no logit is finite", what);
  return static_cast<int32_t>(best);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) { options_.check(); }

int32_t Sampler::sample(std::span<const float> logits, int64_t step) {
  const int32_t best = argmax(logits, fmt::format("generation step {}", step));
  if (options_.temperature == 0) return best;

  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  filter();
  float top = candidates_[0].logit;
  for (const Candidate& c : candidates_) top = std::max(top, c.logit);
  double total = 0;
  for (const Candidate& c : candidates_) {
    total += std::exp((double{c.logit} - top) / options_.temperature);
  }
  double left = draw(options_.seed, step) * total;
  for (const Candidate& c : candidates_) {
    left -= std::exp((double{c.logit} - top) / options_.temperature);
    if (left < 0) return c.token;
  }
  return candidates_.back().token;  // rounding of the sums
}

void Sampler::filter() {
  // A total order, so that results can't depend on the sorting algorithm.
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  };
  const auto worse = [&](const Candidate& a, const Candidate& b) { return better(b, a); };

  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), better);
    candidates_.erase(end, candidates_.end());
  }
  const float top = std::min_element(candidates_.begin(), candidates_.end(), better)->logit;
  const auto weight = [&](const Candidate& c) {
    return std::exp((double{c.logit} - top) / options_.temperature);
  };
  if (options_.top_p < 1) {
    double total = 0;
    for (const Candidate& c : candidates_) total += weight(c);
    // Takes the best ones off a heap: usually few of many.
    std::make_heap(candidates_.begin(), candidates_.end(), worse);
    std::vector<Candidate> kept;
    double sum = 0;
    while (!candidates_.empty() && (kept.empty() || sum < options_.top_p * total)) {
      std::pop_heap(candidates_.begin(), candidates_.end(), worse);
      kept.push_back(candidates_.back());
      sum += weight(kept.back());
      candidates_.pop_back();
    }
    candidates_ = std::move(kept);
  }
  if (options_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < options_.min_p; });
  }
}

}  // namespace reprise
