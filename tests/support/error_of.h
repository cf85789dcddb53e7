// Attempts that must end in Error.
#pragma once

#include <string>

#include "base/error.h"

namespace reprise::test {

// The message of the Error that `action` throws; "" when it throws none. Other exceptions pass.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace reprise::test
