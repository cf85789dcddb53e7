#include "tools/heartbeat.h"

#include <fmt/format.h>

namespace reprise::tools {

Heartbeat::Heartbeat(std::chrono::milliseconds every, Print print)
    : every_(every), print_(std::move(print)), thread_([this] { beat(); }) {}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Heartbeat::doing(std::string what) {
  const std::lock_guard lock(mutex_);
  what_ = std::move(what);
  begin_ = Clock::now();
}

bool Heartbeat::due() const {
  const std::lock_guard lock(mutex_);
  return Clock::now() - last_ >= every_;
}

void Heartbeat::say(const std::function<void()>& print) {
  const std::lock_guard lock(mutex_);
  print();
  last_ = Clock::now();
}

void Heartbeat::draw(const std::function<void()>& print) {
  const std::lock_guard lock(mutex_);
  print();
}

void Heartbeat::beat() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    if (wake_.wait_until(lock, last_ + every_, [&] { return ended_; })) return;
    const auto now = Clock::now();
    if (now < last_ + every_) continue;  // somebody else said something meanwhile
    last_ = now;
    if (what_.empty()) continue;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now - begin_).count();
    print_(fmt::format("{}, {} s", what_, seconds));
  }
}

}  // namespace reprise::tools
