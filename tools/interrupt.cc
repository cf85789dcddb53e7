#include "tools/interrupt.h"

#include <signal.h>
#include <unistd.h>

namespace reprise::tools {

namespace {

constexpr int kInterruptedExit = 130;  // 128 + SIGINT, as shells have it

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // may be used in a signal handler
struct sigaction previous;

void on_interrupt(int) {
  if (interrupted.exchange(true)) _exit(kInterruptedExit);
}

}  // namespace

InterruptScope::InterruptScope() {
  interrupted = false;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &previous);
}

InterruptScope::~InterruptScope() { sigaction(SIGINT, &previous, nullptr); }

const std::atomic<bool>& InterruptScope::flag() const { return interrupted; }

}  // namespace reprise::tools
