// A persistent pool for data-parallel loops. Work is cut by the caller's shapes, never by the
// number of threads, so results can't depend on how many there are.
#pragma once

#include <atomic>
#include <condition_variable>
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
  // time to whoever is free. The first exception of a task is rethrown here. Not reentrant: a body
  // must not call run of the same pool; two threads that call run take turns.
  void run(int64_t tasks, const std::function<void(int64_t task, int worker)>& body);

  // Hardware threads this process may use (affinity mask and cgroup quota respected).
  static int hardware_threads();

 private:
  void worker_loop(int worker);
  void drain(int worker);

  std::vector<std::thread> workers_;
  std::mutex run_mutex_;  // one loop at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  std::atomic<int64_t> next_{0};
  int64_t tasks_ = 0;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  std::exception_ptr error_;
  std::atomic<bool> stop_{false};
};

}  // namespace reprise
