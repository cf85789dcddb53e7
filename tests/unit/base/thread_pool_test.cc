#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <numeric>
#include <thread>

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

void nap(int64_t nanoseconds) {  // also allowed in a signal handler
  const timespec time{0, static_cast<long>(nanoseconds)};
  nanosleep(&time, nullptr);
}

// Threads without a core: a signal keeps them in its handler until they are released, wherever they
// just were.
std::atomic<int> held = 0;
std::atomic<bool> hold = false;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void hold_thread(int) {
  ++held;
  while (hold) nap(100'000);
  --held;
}

TEST(ThreadPool, WorkersWithoutACoreAreNotWaitedFor) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer delivers no signals to a thread that waits for a futex; "
                  "MoreThreadsThanCores is the test for it";
#endif
  struct sigaction action = {}, before = {};
  action.sa_handler = hold_thread;
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  constexpr int kWorkers = 3;
  ThreadPool pool(1 + kWorkers);
  for (int round = 0; round < 20; ++round) {
    // Each thread takes one of these tasks and waits in it for the others.
    std::vector<pthread_t> threads(1 + kWorkers);
    std::atomic<int> arrived = 0;
    pool.run(1 + kWorkers, [&](int64_t, int worker) {
      threads[static_cast<size_t>(worker)] = pthread_self();
      ++arrived;
      while (arrived <= kWorkers) std::this_thread::yield();
    });
    if (round % 2 == 0) nap(2'000'000);  // hold them asleep, or else wherever they are
    hold = true;
    for (int worker = 1; worker <= kWorkers; ++worker)
      ASSERT_EQ(pthread_kill(threads[static_cast<size_t>(worker)], SIGUSR1), 0);
    while (held < kWorkers) nap(100'000);

    auto loops = std::async(std::launch::async, [&pool] {
      int64_t sum = 0;  // not atomic: no other thread may add to it
      for (int loop = 0; loop < 10; ++loop) {
        const auto body = std::make_unique<std::function<void(int64_t, int)>>(
            [&sum](int64_t task, int worker) { sum += worker == 0 ? task : 1'000'000; });
        pool.run(50, *body);  // freed behind it: a late worker that calls it would crash
      }
      return sum;
    });
    const bool returned = loops.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
    hold = false;
    EXPECT_TRUE(returned) << "run waits for workers that have no core";
    EXPECT_EQ(loops.get(), 10 * (49 * 50 / 2));
    while (held > 0) nap(100'000);

    std::atomic<int> count = 0;  // the late ones are of use again
    pool.run(1000, [&](int64_t, int) { ++count; });
    ASSERT_EQ(count, 1000);
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  sigaction(SIGUSR1, &before, nullptr);
}

// Many more threads than cores, loops from a few nanoseconds to longer than the spinning, so that
// workers come late, fall asleep, and wake up in the middle of another loop.
TEST(ThreadPool, MoreThreadsThanCores) {
  const int threads = 4 * ThreadPool::hardware_threads() + 3;
  std::vector<std::jthread> others;  // programs beside this one; the destructor stops them
  for (int i = 0; i < ThreadPool::hardware_threads(); ++i)
    others.emplace_back([](const std::stop_token& stop) {
      while (!stop.stop_requested()) std::this_thread::yield();
    });
  ThreadPool pool(threads);
  for (int loop = 0; loop < 2000; ++loop) {
    const int tasks = 2 + loop * 7 % 61;
    const bool throws = loop % 17 == 0, slow = loop % 29 == 0;
    // On the heap and freed after the loop, and one slot a task: a task of an earlier loop, or
    // one run twice, shows in the counts, in the address sanitizer or in the thread sanitizer.
    auto runs = std::make_unique<std::vector<int>>(static_cast<size_t>(tasks));
    const auto body = [&, slots = runs.get()](int64_t task, int) {
      ++slots->at(static_cast<size_t>(task));
      if (slow) nap(20'000);
      if (throws && task == tasks / 2) fail("task {}", task);
    };
    if (throws) {
      EXPECT_THROW(pool.run(tasks, body), Error);
      for (const int count : *runs) ASSERT_LE(count, 1);
    } else {
      pool.run(tasks, body);
      for (const int count : *runs) ASSERT_EQ(count, 1);
    }
    if (loop % 97 == 0) nap(1'000'000);
  }
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int round = 0; round < 50; ++round) ThreadPool pool(4);
  EXPECT_THROW(ThreadPool(0), InternalError);
  EXPECT_GE(ThreadPool::hardware_threads(), 1);
}

}  // namespace
}  // namespace reprise
