// Ctrl-C: the first one ends a generation, so that what was generated is still shown and counted;
// a second one, or one when nothing is generated, ends the program with code 130.
#pragma once

#include <atomic>

namespace reprise::tools {

// While one lives, SIGINT sets the flag. At most one at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  const std::atomic<bool>& flag() const;
};

}  // namespace reprise::tools
