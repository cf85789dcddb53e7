#include "engine/asked_exit.h"

namespace reprise {

ExitConfig AskedExit::in(const Model& model, const PlanOptions& options) const {
  return beside(rule.active() ? model.scheme().own_exit(rule, options) : rule);
}

ExitConfig AskedExit::beside(ExitConfig exit) const {
  if (kv) {
    exit.kv = *kv;
    exit.prompts = false;
  }
  if (mode) {
    exit.mode = *mode;
    if (exit.mode == ExitMode::Select) exit.prompts = false;
  }
  return exit;
}

}  // namespace reprise
