// Prompts with pictures, made on a thread of their own: what runs meanwhile goes on. Work on the
// backend's threads takes turns with theirs, operation by operation.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "api/batch_line.h"
#include "engine/prompt.h"

namespace reprise {

class PromptMaker {
 public:
  struct Made {
    BatchLine line;
    Prompt prompt;
    std::exception_ptr error;  // instead
  };

  // make: called on that thread alone.
  explicit PromptMaker(std::function<Prompt(const CompletionRequest&)> make)
      : make_(std::move(make)) {}
  ~PromptMaker();  // when the one under way is done; the others are dropped

  void add(BatchLine line);
  // The next one that is done, in the order of add. wait: until it is, where there is one.
  std::optional<Made> take(bool wait);
  size_t pending() const { return pending_; }  // added and not taken

 private:
  void run();

  const std::function<Prompt(const CompletionRequest&)> make_;
  size_t pending_ = 0;
  std::thread thread_;  // from the first one on

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<BatchLine> waiting_;
  std::deque<Made> made_;
  bool stopped_ = false;
};

}  // namespace reprise
