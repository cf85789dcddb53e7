// The KV budget: reservations, what pages draw and return, several threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "backend/kv/budget.h"
#include "base/rng.h"
#include "support/error_of.h"

namespace reprise::testing {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

void expect_usage(const KvBudget& budget, int64_t used, int64_t reserved) {
  const KvBudget::Usage usage = budget.usage();
  EXPECT_EQ(usage.used, used);
  EXPECT_EQ(usage.reserved, reserved);
  EXPECT_EQ(usage.free(), usage.limit - used - reserved);
}

TEST(KvBudget, ReservesAllOrNothing) {
  const auto budget = KvBudget::make(100);
  auto first = budget->reserve(60);
  ASSERT_TRUE(first);
  EXPECT_FALSE(budget->reserve(41));
  expect_usage(*budget, 0, 60);
  auto second = budget->reserve(40);
  ASSERT_TRUE(second);
  EXPECT_FALSE(budget->reserve(1));
  first.reset();
  expect_usage(*budget, 0, 40);
  EXPECT_FALSE(second->resize(101));
  EXPECT_TRUE(second->resize(100));
  EXPECT_TRUE(second->resize(10));
  EXPECT_EQ(second->granted(), 10);
  expect_usage(*budget, 0, 10);
}

TEST(KvBudget, PagesDrawFromTheReservationAndReturnToIt) {
  const auto budget = KvBudget::make(100);
  auto own = budget->reserve(50);
  const auto other = budget->reserve(40);
  {
    const KvCharge a = own->account()->draw(30), b = own->account()->draw(20);
    expect_usage(*budget, 50, 40);
    {
      const KvCharge more = own->account()->draw(10);  // what is free
      expect_usage(*budget, 60, 40);
      EXPECT_THAT(error_of([&] { own->account()->draw(1); }),
                  AllOf(HasSubstr("60 of 100 bytes"), HasSubstr("40 reserved")));
      expect_usage(*budget, 60, 40);
    }
    expect_usage(*budget, 50, 40);  // beyond what was granted nothing is held back
  }
  expect_usage(*budget, 0, 90);
  EXPECT_EQ(own->account()->drawn(), 0);
}

TEST(KvBudget, PagesOutliveTheirReservation) {
  const auto budget = KvBudget::make(100);
  auto request = budget->reserve(80);
  const auto account = request->account();
  KvCharge kept = account->draw(30);
  request.reset();
  expect_usage(*budget, 30, 0);
  {
    const KvCharge later = account->draw(70);  // a row that goes on, from what is free
    EXPECT_THAT(error_of([&] { account->draw(1); }), HasSubstr("100 of 100"));
  }
  KvCharge moved = std::move(kept);
  EXPECT_EQ(moved.bytes(), 30);
  expect_usage(*budget, 30, 0);
  moved = KvCharge();
  expect_usage(*budget, 0, 0);
}

TEST(KvBudget, ShrinkingLeavesDrawnPages) {
  const auto budget = KvBudget::make(100);
  auto request = budget->reserve(80);
  KvCharge page = request->account()->draw(30);
  EXPECT_TRUE(request->resize(0));
  expect_usage(*budget, 30, 0);
  EXPECT_TRUE(request->resize(100));
  expect_usage(*budget, 30, 70);
  page = KvCharge();
  expect_usage(*budget, 0, 100);
}

TEST(KvBudget, HoldsItsLimitForManyThreads) {
  constexpr int64_t kLimit = 1000;
  const auto budget = KvBudget::make(kLimit);
  std::atomic<bool> done = false;
  std::atomic<int64_t> refused = 0, granted = 0, over = 0;
  std::thread watch([&] {
    while (!done) {
      const KvBudget::Usage usage = budget->usage();
      if (usage.used < 0 || usage.reserved < 0 || usage.free() < 0) ++over;
    }
  });
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Philox random(t, 0);
      std::vector<KvCharge> kept;  // some pages outlive their request
      for (int i = 0; i < 2000; ++i) {
        auto request = budget->reserve(random.next_below(500));
        if (!request) {
          ++refused;
          kept.clear();
          continue;
        }
        ++granted;
        for (int64_t left = request->granted(); left > 0;) {  // what is granted can be drawn
          const int64_t bytes = std::min<int64_t>(left, 1 + random.next_below(100));
          kept.push_back(request->account()->draw(bytes));
          left -= bytes;
        }
        if (random.next_below(2)) kept.resize(kept.size() / 2);
        if (random.next_below(4) == 0) request->resize(random.next_below(100));
      }
    });
  for (std::thread& thread : threads) thread.join();
  done = true;
  watch.join();
  EXPECT_EQ(over, 0);
  EXPECT_GT(refused, 0);
  EXPECT_GT(granted, 0);
  expect_usage(*budget, 0, 0);
}

}  // namespace
}  // namespace reprise::testing
