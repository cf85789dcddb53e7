// A sign of life of a long command: a line whenever some time has passed without one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace reprise::tools {

class Heartbeat {
 public:
  using Clock = std::chrono::steady_clock;
  // Gets "step 3 of 300, 12 s" from a thread of its own whenever `every` has passed since the last
  // line, and again after each `every`.
  using Print = std::function<void(const std::string& line)>;

  Heartbeat(std::chrono::milliseconds every, Print print);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  // What is under way from now on.
  void doing(std::string what);
  // Whether a line is due, for a caller who has something better to say than the heartbeat.
  bool due() const;
  // Runs `print`, which writes a line: never beside the heartbeat's, which then waits anew.
  void say(const std::function<void()>& print);
  // The same for what is no line, as a bar that is redrawn.
  void draw(const std::function<void()>& print);

 private:
  void beat();

  const std::chrono::milliseconds every_;
  const Print print_;
  mutable std::mutex mutex_;  // of what follows, and of the output
  std::condition_variable wake_;
  std::string what_;
  Clock::time_point begin_ = Clock::now();  // of what_
  Clock::time_point last_ = Clock::now();   // line
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace reprise::tools
