#include "eval/paired_bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace reprise {
namespace {

TEST(PairedBootstrap, EqualFiguresAreNoDifference) {
  const std::vector<PairedNll> units(5, {.a = 12, .b = 12, .tokens = 4});
  const PairedDifference found = paired_difference(units);
  EXPECT_EQ(found.mean, 0);
  EXPECT_EQ(found.low, 0);
  EXPECT_EQ(found.high, 0);
  EXPECT_FALSE(found.better());
  EXPECT_FALSE(found.worse());
}

TEST(PairedBootstrap, UnitsCountByTheirTokens) {
  const std::vector<PairedNll> units = {{.a = 10, .b = 8, .tokens = 1},
                                        {.a = 10, .b = 10, .tokens = 3}};
  EXPECT_DOUBLE_EQ(paired_difference(units).mean, -0.5);
}

TEST(PairedBootstrap, WhatAllUnitsShareIsSure) {
  // Units differ a lot from each other, b always a little below a.
  std::vector<PairedNll> units;
  for (int i = 0; i < 20; ++i)
    units.push_back({.a = 10.0 + i * i, .b = 9.5 + i * i - 0.01 * (i % 3), .tokens = 10});
  const PairedDifference found = paired_difference(units);
  EXPECT_TRUE(found.better());
  EXPECT_LE(found.low, found.mean);
  EXPECT_LE(found.mean, found.high);
  for (PairedNll& unit : units) std::swap(unit.a, unit.b);
  EXPECT_TRUE(paired_difference(units).worse());
}

TEST(PairedBootstrap, TheWidthIsThatOfAMean) {
  // 100 differences from a normal distribution of deviation 1: an interval of about +- 1.96 / 10.
  Philox random(3, 1);
  std::vector<PairedNll> units;
  for (uint64_t i = 0; i < 100; ++i) units.push_back({.a = 0, .b = random.normal(i), .tokens = 1});
  const PairedDifference found = paired_difference(units);
  EXPECT_NEAR(found.high - found.low, 2 * 1.96 / 10, 0.08);
  EXPECT_FALSE(found.better() && found.worse());
}

TEST(PairedBootstrap, OneUnitSaysNothing) {
  const std::vector<PairedNll> units = {{.a = 10, .b = 1, .tokens = 1}};
  const PairedDifference found = paired_difference(units);
  EXPECT_EQ(found.mean, -9);
  EXPECT_TRUE(std::isinf(found.low) && std::isinf(found.high));
  EXPECT_FALSE(found.better());
}

}  // namespace
}  // namespace reprise
