#include "eval/paired_bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace reprise {
namespace {

// Of units picked by `index`: the difference of the sums per token.
template <typename Index>
double difference(std::span<const PairedNll> units, const Index& index) {
  double sum = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    const PairedNll& unit = units[index(i)];
    sum += unit.b - unit.a;
    tokens += unit.tokens;
  }
  return tokens > 0 ? sum / static_cast<double>(tokens) : 0;
}

}  // namespace

PairedDifference paired_difference(std::span<const PairedNll> units, int resamples, uint64_t seed) {
  PairedDifference result;
  result.mean = difference(units, [](size_t i) { return i; });
  if (units.size() < 2) {
    result.low = -std::numeric_limits<double>::infinity();
    result.high = std::numeric_limits<double>::infinity();
    return result;
  }
  Philox random(seed, 0);
  std::vector<double> drawn(static_cast<size_t>(std::max(resamples, 1)));
  for (double& one : drawn)
    one = difference(
        units, [&](size_t) { return random.next_below(static_cast<uint32_t>(units.size())); });
  std::ranges::sort(drawn);
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(drawn.size() - 1);
    return drawn[static_cast<size_t>(std::lround(place))];
  };
  constexpr double kTail = 0.025;  // on each side
  result.low = at(kTail);
  result.high = at(1 - kTail);
  return result;
}

}  // namespace reprise
