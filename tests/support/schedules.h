// Random schedules: the models they run on, and random numbers to make them of.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "support/tiny_models.h"

namespace reprise::test {

struct Random {
  Philox bits;
  uint64_t at = 0;
  explicit Random(uint64_t seed) : bits(seed, 77) {}
  uint64_t below(uint64_t n) { return bits.bits(at++) % n; }
  bool chance(uint64_t one_in) { return below(one_in) == 0; }
};

struct Kind {
  std::string name;
  Json config;
  std::vector<PlanOptions> plans = {{}};  // requests choose among them
  int loops = 1;                          // loop ends of a plan
  bool looped = false;                    // LoopedScheme
  bool shares = true;                     // whether each loop leaves entries that can be shared
};
// What tokens that left have as keys and values of deeper loops.
ExitKv random_policy(const Kind& kind, Random& random);
inline void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

std::unique_ptr<Model> make_model(const Kind& kind, Backend& backend);
// One of every way of reuse, and of every way that rows of a plan depend on each other.
std::vector<Kind> kinds();

// Schedules per model: REPRISE_SCHEDULES, or a few.
uint64_t schedules();

bool same_bits(std::span<const float> a, std::span<const float> b);

}  // namespace reprise::test
