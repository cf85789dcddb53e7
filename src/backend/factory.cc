#include "backend/factory.h"

#include "backend/train_backend.h"
#include "base/error.h"

namespace reprise {

std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return make_cpu_backend(options);
  if (name == "torch") return make_torch_backend(options);
  fail("backend '{}': expected cpu or torch", name);
}

}  // namespace reprise
