// Numbers that are no longer finite: the last checkpoint is better than the weights as they are.
#pragma once

#include <fmt/format.h>

#include <string>

#include "base/error.h"
#include "train/recipe/recipe.h"

namespace reprise {

class Diverged : public Error {
 public:
  using Error::Error;
};

[[noreturn]] inline void diverged(const Recipe& recipe, const std::string& what, int64_t step) {
  throw Diverged(fmt::format("{}: {} at step {}; the last checkpoint is from before",
                             recipe.path.string(), what, step));
}

}  // namespace reprise
