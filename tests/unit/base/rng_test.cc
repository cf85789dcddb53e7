#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace reprise {
namespace {

TEST(Philox, KnownAnswers) {
  // Philox4x32-10 with key 0 and counter 0 (kat_vectors of the Random123 distribution).
  const Philox zero(0, 0);
  const uint32_t expected[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(zero.bits(i), expected[i]) << i;
}

TEST(Philox, PositionsDoNotDependOnOrder) {
  Philox sequential(42, 7);
  std::vector<uint32_t> values;
  for (int i = 0; i < 100; ++i) values.push_back(sequential.next_bits());
  const Philox random_access(42, 7);
  for (int i = 99; i >= 0; --i) EXPECT_EQ(random_access.bits(static_cast<uint64_t>(i)), values[i]);
  EXPECT_EQ(sequential.next_bits(), random_access.bits(100));
}

TEST(Philox, SeedsAndStreamsDiffer) {
  std::set<uint32_t> firsts;
  for (uint64_t seed = 0; seed < 20; ++seed)
    for (uint64_t stream = 0; stream < 20; ++stream)
      firsts.insert(Philox(seed << 30, stream << 30).bits(0));
  EXPECT_GT(firsts.size(), 398u);  // of 400: the high halves of both count
}

TEST(Philox, DistributionsHaveTheirMoments) {
  const Philox rng(1, 2);
  const int n = 100000;
  double uniform = 0, normal = 0, square = 0;
  for (int i = 0; i < n; ++i) {
    const float u = rng.uniform(static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    const float z = rng.normal(static_cast<uint64_t>(i));
    ASSERT_TRUE(std::isfinite(z));
    uniform += u;
    normal += z;
    square += static_cast<double>(z) * z;
  }
  // Five standard errors.
  EXPECT_NEAR(uniform / n, 0.5, 5 * 0.2887 / std::sqrt(n));
  EXPECT_NEAR(normal / n, 0.0, 5 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1.0, 5 * std::sqrt(2.0 / n));
}

TEST(Philox, BelowIsUniform) {
  Philox rng(3, 4);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) {
    const uint32_t value = rng.next_below(7);
    ASSERT_LT(value, 7u);
    ++counts[value];
  }
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
}

}  // namespace
}  // namespace reprise
