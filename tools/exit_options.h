// --exit and --exit-kv: when generated tokens leave a looped model before its last loop.
#pragma once

#include <optional>

#include "engine/session.h"
#include "tools/cli.h"

namespace reprise::tools {

class ExitFlags {
 public:
  // own_rule: the model's own is the default, and the help says so.
  void add(cli::App& app, bool own_rule);
  bool given() const { return rule_->count() > 0; }
  // What was asked for of requests that decode by this plan, or with own_rule what the model's
  // config says where nothing was. Throws Error that begins with the option.
  ExitConfig resolve(const Model& model, const Plan& decode) const;

 private:
  bool own_rule_ = false;
  ExitConfig exit_;
  std::optional<ExitKv> kv_;
  cli::Option* rule_ = nullptr;
};

// --exit-kv alone.
cli::Option* add_exit_kv_option(cli::App& app, std::optional<ExitKv>& kv);

}  // namespace reprise::tools
