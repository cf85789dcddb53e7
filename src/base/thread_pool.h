// A persistent pool for data-parallel loops. Work is cut by the caller's shapes, never by the
// number of threads, so results can't depend on how many there are.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace reprise {

class ThreadPool {
 public:
  // threads >= 1 counts the caller: ThreadPool(1) starts none and runs everything inline.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(task, worker) for task = 0..tasks-1, each exactly once, and returns when all are
  // done. worker is in [0, threads()): use it to pick scratch memory. Tasks are handed out one at a
  // time to whoever is free, at most 2^32 - 1 of them. Only workers that took a task are waited
  // for: one that has no core just now costs nothing. The first exception of a task is rethrown
  // here, the tasks nobody had begun are dropped then. Not reentrant: a body must not call run of
  // the same pool; two threads that call run take turns.
  void run(int64_t tasks, const std::function<void(int64_t task, int worker)>& body);

  // Hardware threads this process may use (affinity mask and cgroup quota respected).
  static int hardware_threads();

 private:
  void worker_loop(int worker);
  void drain(int worker);

  std::vector<std::thread> workers_;
  std::mutex run_mutex_;  // one loop at a time

  // The loop that runs now. tasks_ and body_ may be read only by whoever holds a task of it that is
  // not yet counted in unfinished_: `run` can't return, nor the next loop begin, before it is.
  int64_t tasks_ = 0;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;

  // Apart, so that claims don't disturb those who spin on another one.
  alignas(64) std::atomic<int64_t> unclaimed_{0};    // tasks nobody took; 0 or less: none left
  alignas(64) std::atomic<uint32_t> unfinished_{0};  // tasks `run` waits for
  alignas(64) std::atomic<uint32_t> generation_{0};  // counts loops; idle workers wait for a change
  std::atomic<bool> stop_{false};
};

}  // namespace reprise
