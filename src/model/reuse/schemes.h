// The registry: one line a scheme. Each names a file here that defines
//   const SchemeType& <name>_scheme();
// The first is the ordinary decoder, the scheme of a model that names none.
#pragma once

#include <memory>

#include "model/scheme.h"
#include "model/scheme_type.h"

#define REPRISE_SCHEMES(X) \
  X(dense)                 \
  X(replay)                \
  X(trol)                  \
  X(phantom)               \
  X(recursive)             \
  X(ouro)                  \
  X(nanbeige)              \
  X(huginn)                \
  X(dory)                  \
  /* The next one above this line. */

namespace reprise {

#define REPRISE_DECLARE_SCHEME(name) const SchemeType& name##_scheme();
REPRISE_SCHEMES(REPRISE_DECLARE_SCHEME)
#undef REPRISE_DECLARE_SCHEME

// SchemeType::make for a class that is constructed from the config alone.
template <class T>
std::unique_ptr<Scheme> make_as(const ModelConfig& config) {
  return std::make_unique<T>(config);
}

// "plan", for schemes whose blocks may be visited in any order: what Scheme::decode_plan reads.
SchemeOption plan_option();
// "loops", for schemes that can run another number of loops than the config's.
SchemeOption loops_option();
// The same under the name that the model's own code has for it, and what a request asks for by either
// name. Throws Error where they contradict each other.
SchemeOption official_loops_option(std::string name);
std::optional<int64_t> asked_loops(const PlanOptions& options, const std::string& official);
// "exit_threshold", of those whose code has an argument of this name.
SchemeOption exit_threshold_option(std::string help);

}  // namespace reprise
