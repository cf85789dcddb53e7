// How sure a difference between two ways of predicting the same texts is: the texts are drawn again,
// with replacement, each with both its figures (Efron and Tibshirani, "An Introduction to the
// Bootstrap", 1993, percentile intervals).
#pragma once

#include <cstdint>
#include <span>

namespace reprise {

// One text, window or question: what both say of it.
struct PairedNll {
  double a = 0, b = 0;  // sums of -log p, in nats
  int64_t tokens = 0;   // > 0: predictions in each sum
};

struct PairedDifference {
  double mean = 0;           // of b - a per token, in nats: below 0, b is better
  double low = 0, high = 0;  // 95% interval
  // Shown: the interval leaves out that there is no difference.
  bool better() const { return high < 0; }
  bool worse() const { return low > 0; }
};

// The same for the same seed. Of fewer than 2 units the interval is everything: [-inf, inf]. All
// figures must be finite.
PairedDifference paired_difference(std::span<const PairedNll> units, int resamples = 10000,
                                   uint64_t seed = 0);

}  // namespace reprise
