#include "tools/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>

namespace reprise::tools {

namespace {

constexpr int kSignalExit = 128;
constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

std::atomic<bool> interrupted{false};
std::atomic<int> received{0};  // the first signal
// May be used in a signal handler.
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);
std::array<struct sigaction, kSignals.size()> previous;

void on_signal(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) _exit(kSignalExit + signal);
  interrupted = true;
}

}  // namespace

InterruptScope::InterruptScope() {
  interrupted = false;
  received = 0;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &previous[i]);
    if (kSignals[i] == SIGHUP && previous[i].sa_handler == SIG_IGN) continue;
    sigaction(kSignals[i], &action, nullptr);
  }
}

InterruptScope::~InterruptScope() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

const std::atomic<bool>& InterruptScope::flag() const { return interrupted; }

int interrupted_exit() { return received == 0 ? 0 : kSignalExit + received; }

int terminated_exit() { return received == SIGINT ? 0 : interrupted_exit(); }

void let_writes_fail() { signal(SIGXFSZ, SIG_IGN); }

}  // namespace reprise::tools
