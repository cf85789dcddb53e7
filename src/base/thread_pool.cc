#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/cpu_quota.h"
#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace reprise {
namespace {

// Decode runs hundreds of short loops per token; a sleep and a wake-up costs more than most of
// them. So idle workers spin this long before they sleep.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  REPRISE_CHECK(threads >= 1);
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { worker_loop(worker); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

// Who may touch what, and why it is safe. `run` fills in a loop's fields and then stores unclaimed_
// (release). Every claim is a read-modify-write of unclaimed_ (acquire), so a claim that finds a
// task reads from that store or from a claim after it, and sees the fields. A worker that comes
// late, for a loop long over, either finds no task and touches nothing else, or takes a task of the
// loop that runs now, which is as good: it needs no knowledge of which loop it was woken for.
// Tasks are counted as finished (release) after their last use of the fields; `run` returns when it
// has seen all of them counted (acquire), so neither the closure nor the fields are touched after.
void ThreadPool::drain(int worker) {
  uint32_t finished = 0;
  for (;;) {
    const int64_t unclaimed = unclaimed_.fetch_sub(1, std::memory_order_acquire);
    if (unclaimed <= 0) break;
    try {
      (*body_)(tasks_ - unclaimed, worker);
    } catch (...) {
      {
        std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
      const int64_t dropped = unclaimed_.exchange(0, std::memory_order_acquire);
      if (dropped > 0) finished += static_cast<uint32_t>(dropped);
    }
    ++finished;
  }
  if (finished == 0) return;
  if (unfinished_.fetch_sub(finished, std::memory_order_acq_rel) == finished)
    unfinished_.notify_one();  // if `run` has gone on already, this wakes somebody who looks again
}

void ThreadPool::worker_loop(int worker) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin)
      pause();
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    drain(worker);
  }
}

void ThreadPool::run(int64_t tasks, const std::function<void(int64_t, int)>& body) {
  if (tasks <= 0) return;
  // Loops that run inline take their turn too: worker 0's scratch memory is theirs alone.
  std::lock_guard one_at_a_time(run_mutex_);
  if (workers_.empty() || tasks == 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  REPRISE_CHECK(tasks <= std::numeric_limits<uint32_t>::max());
  tasks_ = tasks;
  body_ = &body;
  error_ = nullptr;
  unfinished_.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  unclaimed_.store(tasks, std::memory_order_release);
  generation_.fetch_add(1);
  generation_.notify_all();  // no system call while nobody sleeps
  drain(0);
  for (int spin = 0; spin < kSpins && unfinished_.load(std::memory_order_acquire) != 0; ++spin)
    pause();
  for (uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;)
    unfinished_.wait(left, std::memory_order_relaxed);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

int ThreadPool::hardware_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  // A quota of 1.5 pays for two threads three quarters of the time: all are stopped together.
  if (const auto quota = cpu_quota())
    count = static_cast<int>(std::min<double>(count, std::ceil(*quota)));
  return std::max(1, count);
}

}  // namespace reprise
