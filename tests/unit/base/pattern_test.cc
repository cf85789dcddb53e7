#include "base/pattern.h"

#include <gtest/gtest.h>

namespace reprise {
namespace {

TEST(Pattern, StarMatchesAnyRun) {
  EXPECT_TRUE(matches_pattern("a.b", "a.b"));
  EXPECT_FALSE(matches_pattern("a.b", "a.bc"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("*.weight", "layers.0.norm.weight"));
  EXPECT_FALSE(matches_pattern("*.weight", "layers.0.norm.weights"));
  EXPECT_TRUE(matches_pattern("*layers*proj*", "model.layers.3.q_proj.weight"));
  EXPECT_TRUE(matches_pattern("*ab*ab", "abxabab"));
  EXPECT_FALSE(matches_pattern("", "a"));
}

}  // namespace
}  // namespace reprise
