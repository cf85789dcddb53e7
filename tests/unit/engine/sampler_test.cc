#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// Shares of the tokens that many steps with the same logits choose.
std::map<int32_t, double> shares(const SamplerOptions& options, std::span<const float> logits,
                                 int64_t steps = 20000) {
  Sampler sampler(options);
  std::map<int32_t, double> counts;
  for (int64_t i = 0; i < steps; ++i) {
    counts[sampler.sample(logits, i)] += 1.0 / static_cast<double>(steps);
  }
  return counts;
}

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.25f),
                                    std::log(0.05f)};

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOfATie) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{0, 3, 1, 2}, 0), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-1, 5, 5, 5}, 1), 1);
}

TEST(Sampler, NanNamesTheStep) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler({.temperature = temperature});
    EXPECT_THAT(
        [&] {
          sampler.sample(std::vector<float>{0, nan, 1}, 7);
        },
        ThrowsMessage<Error>(HasSubstr("step 7: logits are NaN")));
    EXPECT_THAT(
        [&] {
          sampler.sample(std::vector<float>{-inf, -inf, -inf}, 2);
        },
        ThrowsMessage<Error>(HasSubstr("step 2")));
  }
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const auto found = shares({.temperature = 1, .seed = 5}, kLogits);
  const double expected[] = {0.1, 0.4, 0.2, 0.25, 0.05};
  for (int32_t token = 0; token < 5; ++token) {
    EXPECT_NEAR(found.at(token), expected[token], 0.015) << token;
  }
}

TEST(Sampler, TemperatureSharpens) {
  // p^2 / sum p^2 at temperature 1/2.
  const auto found = shares({.temperature = 0.5f}, kLogits);
  const double sum = 0.01 + 0.16 + 0.04 + 0.0625 + 0.0025;
  EXPECT_NEAR(found.at(1), 0.16 / sum, 0.015);
  EXPECT_NEAR(found.at(3), 0.0625 / sum, 0.015);
}

TEST(Sampler, DrawOfAStepDependsOnSeedAndStepOnly) {
  Sampler forwards({.temperature = 1, .seed = 9}), backwards({.temperature = 1, .seed = 9});
  std::vector<int32_t> a(50), b(50), c(50);
  for (int64_t i = 0; i < 50; ++i) a[i] = forwards.sample(kLogits, i);
  for (int64_t i = 49; i >= 0; --i) b[i] = backwards.sample(kLogits, i);
  EXPECT_EQ(a, b);
  Sampler other({.temperature = 1, .seed = 10});
  for (int64_t i = 0; i < 50; ++i) c[i] = other.sample(kLogits, i);
  EXPECT_NE(a, c);
}

TEST(Sampler, TopKKeepsTheBest) {
  const auto found = shares({.temperature = 1, .top_k = 2}, kLogits);
  EXPECT_EQ(found.size(), 2u);
  EXPECT_NEAR(found.at(1), 0.4 / 0.65, 0.015);
  EXPECT_NEAR(found.at(3), 0.25 / 0.65, 0.015);
}

TEST(Sampler, TopKTieGoesToTheLowerId) {
  const auto found = shares({.temperature = 1, .top_k = 2}, std::vector<float>{1, 1, 1, 1});
  EXPECT_EQ(found.size(), 2u);
  EXPECT_TRUE(found.contains(0) && found.contains(1));
}

TEST(Sampler, TopPKeepsTheTokenThatReachesIt) {
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.6f}, kLogits).size(), 2u);   // 0.4, 0.25
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.7f}, kLogits).size(), 3u);   // and 0.2
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.01f}, kLogits).size(), 1u);  // never none
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  const auto found = shares({.temperature = 1, .min_p = 0.3f}, kLogits);  // at least 0.12
  EXPECT_EQ(found.size(), 3u);
  EXPECT_FALSE(found.contains(0) || found.contains(4));
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const auto check = [](SamplerOptions options) { return [options] { Sampler{options}; }; };
  EXPECT_THAT(check({.temperature = -1}), ThrowsMessage<Error>(HasSubstr("temperature")));
  EXPECT_THAT(check({.top_k = -1}), ThrowsMessage<Error>(HasSubstr("top-k")));
  EXPECT_THAT(check({.top_p = 0}), ThrowsMessage<Error>(HasSubstr("top-p")));
  EXPECT_THAT(check({.min_p = 1.5f}), ThrowsMessage<Error>(HasSubstr("min-p")));
  EXPECT_THAT(check({.temperature = std::nanf("")}),
              ThrowsMessage<Error>(HasSubstr("temperature")));
}

}  // namespace
}  // namespace reprise
