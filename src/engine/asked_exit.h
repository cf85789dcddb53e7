// When tokens shall leave a looped model, as somebody asks: a rule, and what else was said.
#pragma once

#include <optional>

#include "model/model.h"

namespace reprise {

struct AskedExit {
  ExitConfig rule;           // as parse_exit reads it
  std::optional<ExitKv> kv;  // nullopt: not said
  std::optional<ExitMode> mode;

  // The rule in a model for requests with these options: what wasn't said is as the model's own code
  // has it beside such a rule. Throws Error naming the option that doesn't go with it. Whether the
  // model has such exits is told by Model::check_exit.
  ExitConfig in(const Model& model, const PlanOptions& options) const;
  // Another rule, with what was said of this one.
  ExitConfig beside(ExitConfig exit) const;
};

}  // namespace reprise
