#include "api/prompt_maker.h"

#include <utility>

namespace reprise {

PromptMaker::~PromptMaker() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void PromptMaker::add(BatchLine line) {
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(line));
    changed_.notify_all();
  }
  ++pending_;
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
}

std::optional<PromptMaker::Made> PromptMaker::take(bool wait) {
  if (pending_ == 0) return std::nullopt;
  std::unique_lock lock(mutex_);
  if (wait) changed_.wait(lock, [&] { return !made_.empty(); });
  if (made_.empty()) return std::nullopt;
  Made made = std::move(made_.front());
  made_.pop_front();
  --pending_;
  return made;
}

void PromptMaker::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopped_ || !waiting_.empty(); });
    if (stopped_) return;
    Made made{std::move(waiting_.front()), {}, nullptr};
    waiting_.pop_front();
    lock.unlock();
    try {
      made.prompt = make_(*made.line.request);
    } catch (...) {
      made.error = std::current_exception();
    }
    lock.lock();
    made_.push_back(std::move(made));
    changed_.notify_all();
  }
}

}  // namespace reprise
