// Where the torch backend's tests compute: REPRISE_TEST_DEVICE, "cpu" where it isn't set. CI has no
// GPU; docs/verification.md says how to run these tests on one.
#pragma once

#include <cstdlib>
#include <string>

namespace reprise::test {

inline std::string torch_device() {
  const char* device = std::getenv("REPRISE_TEST_DEVICE");
  return device && *device ? device : "cpu";
}

}  // namespace reprise::test
