#include "base/error.h"

#include <fmt/ranges.h>

namespace reprise {

void Problems::raise() const {
  if (!list_.empty()) throw Error(fmt::format("{}", fmt::join(list_, "\n")));
}

namespace internal {

void check_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(fmt::format("internal error at {}:{}: {} does not hold{}{}", file, line,
                                  condition, message.empty() ? "" : ": ", message));
}

}  // namespace internal
}  // namespace reprise
