// The search on figures that are made up: what it finds, what it measures, how it goes on.
#include "eval/plan_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "model/plan/plan.h"
#include "support/error_of.h"

namespace reprise::test {
namespace {

using ::testing::HasSubstr;

constexpr int kBlocks = 10;
constexpr size_t kUnits = 8;
constexpr int64_t kTokens = 10;

// A model for which the update of every visit behind the first ten counts, best where it is at blocks
// 5 to 7 and small.
double nats_of(const std::string& text, size_t unit) {
  const Plan plan = parse_plan(text, kBlocks, "plan");
  double loss = 100 + 3 * static_cast<double>(unit);
  int depth = 0;
  double factor = 1;
  std::set<int> seen;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    if (std::holds_alternative<Save>(plan.steps[i].op)) {
      for (size_t j = i; j < plan.steps.size(); ++j)
        if (const auto* combine = std::get_if<Combine>(&plan.steps[j].op)) {
          factor = combine->alpha;
          break;
        }
    } else if (std::holds_alternative<Combine>(plan.steps[i].op)) {
      factor = 1;
    } else if (const auto* visit = std::get_if<Visit>(&plan.steps[i].op)) {
      ++depth;
      if (seen.insert(visit->block).second) {
        loss += 2 * std::abs(factor - 1);
        continue;
      }
      const bool good = visit->block >= 5 && visit->block <= 7;
      loss += good ? std::abs(factor - 0.2) - 0.2 : 5 * factor;
    }
  }
  return loss + 0.001 * depth;
}

struct Counted {
  PlanSearch search;
  int sums = 0;  // measured
  int stop_after = std::numeric_limits<int>::max();
  std::vector<size_t> sizes;  // of the calls

  explicit Counted(int budget = 80) {
    search.blocks = kBlocks;
    search.budget = budget;
    search.tokens.assign(kUnits, kTokens);
    search.measure = [this](size_t unit, const std::vector<std::string>& plans) {
      std::vector<double> found;
      if (sums >= stop_after) return found;
      for (const std::string& plan : plans) found.push_back(nats_of(plan, unit));
      sums += static_cast<int>(plans.size());
      sizes.push_back(plans.size());
      return found;
    };
  }
};

TEST(PlanSearch, FindsWhatIsBetter) {
  Counted counted(150);
  PlanFigures figures;
  const PlanSearchResult found = search_plans(counted.search, figures);
  EXPECT_FALSE(found.stopped);
  EXPECT_EQ(found.plain, "0-9");
  EXPECT_NEAR(found.plain_nll, (100 + 3 * 3.5 + 0.001 * kBlocks) / kTokens, 1e-9);
  ASSERT_FALSE(found.ranked.empty());
  // All of what there is to win are three blocks with 0.2 nats each.
  EXPECT_LT(found.ranked[0].difference * kTokens, -0.5) << found.ranked[0].plan;
  for (size_t i = 1; i < found.ranked.size(); ++i)
    EXPECT_LE(found.ranked[i - 1].difference, found.ranked[i].difference);
  EXPECT_LE(found.looked_at, 150);
}

TEST(PlanSearch, LooksAtMostPlansOnFewUnits) {
  Counted counted(80);
  PlanFigures figures;
  const PlanSearchResult found = search_plans(counted.search, figures);
  EXPECT_LT(counted.sums, found.looked_at * static_cast<int>(kUnits) * 2 / 3);
  size_t whole = 0;
  for (const auto& [plan, units] : figures) {
    ASSERT_EQ(units.size(), kUnits);
    bool all = true;
    for (const double nats : units) all = all && !std::isnan(nats);
    whole += all;
  }
  EXPECT_EQ(whole, found.ranked.size() + 1);
  EXPECT_LT(whole, figures.size() / 2);
}

TEST(PlanSearch, BudgetsAreKept) {
  for (const int budget : {1, 2, 7, 8, 9, 30}) {
    Counted counted(budget);
    PlanFigures figures;
    const PlanSearchResult found = search_plans(counted.search, figures);
    EXPECT_LE(found.looked_at, budget);
    EXPECT_FALSE(found.ranked.empty());
  }
}

TEST(PlanSearch, BlocksInFrontAreKept) {
  Counted counted(80);
  counted.search.keep = 6;
  PlanFigures figures;
  const PlanSearchResult found = search_plans(counted.search, figures);
  for (const auto& [plan, units] : figures) {
    const Plan parsed = parse_plan(plan, kBlocks, "plan");
    for (int block = 0; block < 6; ++block) {
      const auto* visit = std::get_if<Visit>(&parsed.steps[static_cast<size_t>(block)].op);
      ASSERT_TRUE(visit && visit->block == block) << plan;
    }
  }
}

TEST(PlanSearch, GoesOnWhereItWasStopped) {
  Counted whole;
  PlanFigures all;
  const PlanSearchResult expected = search_plans(whole.search, all);

  PlanFigures figures;
  int sums = 0;
  bool stopped = true;
  for (int rounds = 0; stopped; ++rounds) {
    ASSERT_LT(rounds, 100);
    Counted part;
    part.stop_after = 40;
    const PlanSearchResult found = search_plans(part.search, figures);
    stopped = found.stopped;
    sums += part.sums;
    if (stopped) {
      EXPECT_TRUE(found.ranked.empty());
      continue;
    }
    ASSERT_EQ(found.ranked.size(), expected.ranked.size());
    for (size_t i = 0; i < found.ranked.size(); ++i)
      EXPECT_EQ(found.ranked[i].plan, expected.ranked[i].plan);
  }
  EXPECT_EQ(sums, whole.sums) << "nothing twice";
}

TEST(PlanSearch, PlansOfTheUserAreLookedAt) {
  Counted counted(8);
  counted.search.tried = {"0-7,5-7@0.2,8-9", "0-9"};
  PlanFigures figures;
  const PlanSearchResult found = search_plans(counted.search, figures);
  EXPECT_EQ(found.ranked[0].plan, "0-7,5-7@0.2,8-9");
}

TEST(PlanSearch, PlansWithoutNumbersComeLast) {
  Counted counted(40);
  const auto measure = counted.search.measure;
  counted.search.measure = [&](size_t unit, const std::vector<std::string>& plans) {
    std::vector<double> found = measure(unit, plans);
    for (size_t i = 0; i < plans.size(); ++i)
      if (plans[i].find('@') != std::string::npos)
        found[i] = std::numeric_limits<double>::infinity();
    return found;
  };
  PlanFigures figures;
  const PlanSearchResult found = search_plans(counted.search, figures);
  EXPECT_EQ(found.ranked[0].plan.find('@'), std::string::npos) << found.ranked[0].plan;

  counted.search.measure = [](size_t, const std::vector<std::string>& plans) {
    return std::vector<double>(plans.size(), std::numeric_limits<double>::infinity());
  };
  PlanFigures none;
  EXPECT_THAT(error_of([&] { search_plans(counted.search, none); }), HasSubstr("plain depth"));
}

}  // namespace
}  // namespace reprise::test
