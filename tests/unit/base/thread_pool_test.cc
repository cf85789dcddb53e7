#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <numeric>

#include "base/error.h"

namespace reprise {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEachTaskExactlyOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const int64_t tasks : {0, 1, 2, 7, 100, 20000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
    std::atomic<bool> worker_in_range = true;
    pool.run(tasks, [&](int64_t task, int worker) {
      ++runs[static_cast<size_t>(task)];
      if (worker < 0 || worker >= pool.threads()) worker_in_range = false;
    });
    for (const auto& count : runs) ASSERT_EQ(count, 1);
    EXPECT_TRUE(worker_in_range);
  }
}

TEST_P(ThreadPoolTest, ManyShortLoops) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> sum = 0;
  for (int loop = 0; loop < 1000; ++loop) pool.run(5, [&](int64_t task, int) { sum += task; });
  EXPECT_EQ(sum, 1000 * 10);
}

TEST_P(ThreadPoolTest, AWorkerRunsOneTaskAtATime) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> busy(static_cast<size_t>(pool.threads()));
  std::atomic<bool> clash = false;
  pool.run(5000, [&](int64_t, int worker) {
    if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) clash = true;
    busy[static_cast<size_t>(worker)].fetch_sub(1);
  });
  EXPECT_FALSE(clash);
}

TEST_P(ThreadPoolTest, ExceptionsReachTheCallerAndThePoolLives) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 50; ++round) {
    const auto body = [&](int64_t task, int) {
      if (task == round) fail("task {}", task);
    };
    try {
      pool.run(100, body);
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()), "task " + std::to_string(round));
    }
    std::atomic<int> count = 0;
    pool.run(100, [&](int64_t, int) { ++count; });
    ASSERT_EQ(count, 100);
  }
  EXPECT_THROW(pool.run(100, [](int64_t, int) { throw 7; }), int);  // all of them
  EXPECT_THROW(pool.run(1, [](int64_t, int) { throw 7; }), int);
}

TEST_P(ThreadPoolTest, CallersTakeTurns) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> busy(static_cast<size_t>(pool.threads()));
  std::atomic<bool> clash = false;
  std::atomic<int64_t> count = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 300; ++loop)
        pool.run(caller == 0 ? 1 : 6, [&](int64_t, int worker) {
          if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) clash = true;
          ++count;
          busy[static_cast<size_t>(worker)].fetch_sub(1);
        });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(count, 300 * (1 + 6 + 6));
  EXPECT_FALSE(clash) << "two callers used the same worker's scratch at once";
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int round = 0; round < 50; ++round) ThreadPool pool(4);
  EXPECT_THROW(ThreadPool(0), InternalError);
  EXPECT_GE(ThreadPool::hardware_threads(), 1);
}

}  // namespace
}  // namespace reprise
