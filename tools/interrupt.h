// Signals that end the program: Ctrl-C (INT), TERM and HUP. The first one ends what is under way, so
// that what was generated is still shown and counted and nothing half-written stays; a second one,
// or one when nothing is under way, ends the program at once. Its exit code is then 128 + signal.
#pragma once

#include <atomic>

namespace reprise::tools {

// While one lives, these signals set the flag; HUP only where it isn't ignored (nohup). At most one
// at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  const std::atomic<bool>& flag() const;
};

// Of the last scope: 128 + the first signal, as shells have it; 0 where there was none.
int interrupted_exit();
// The same without Ctrl-C, after which a command that has shown what it had is done.
int terminated_exit();

// Writes beyond the largest file that is allowed fail like those to a full disk, instead of ending
// the program.
void let_writes_fail();

}  // namespace reprise::tools
