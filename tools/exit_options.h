// --exit, --exit-kv and --exit-mode: when tokens leave a looped model before its last loop.
#pragma once

#include <optional>

#include "engine/asked_exit.h"
#include "tools/cli.h"

namespace reprise::tools {

// What a command does where nobody asks for a rule.
struct ExitDefaults {
  bool stored = false;    // "reprise.exit" of the model's config holds
  bool official = false;  // what the model's own code does holds (Scheme::official_exit)
  bool select = false;    // mode Select where the model's own code selects
};

inline constexpr ExitDefaults kRunDefaults = {.stored = true, .official = true};

class ExitFlags {
 public:
  void add(cli::App& app, const ExitDefaults& defaults);
  bool given() const { return rule_->count() > 0; }
  // What was asked for of requests with these options, which decode by this plan, or what holds
  // where nothing was. Throws Error that begins with the option or names the key.
  ExitConfig resolve(const Model& model, const Plan& decode, const PlanOptions& options) const;

 private:
  ExitDefaults defaults_;
  AskedExit asked_;
  cli::Option* rule_ = nullptr;
};

// The first of these options that says when tokens leave, as on the command line; "": none does.
std::string given_exit_option(const Model& model, const PlanOptions& options);
// The rule that these options ask for; none where no option does. Throws Error that begins with the
// option.
ExitConfig asked_exit(const Model& model, const Plan& decode, const PlanOptions& options);

// The rule that holds where nobody asks for one. Throws Error naming file and key.
ExitConfig default_exit(const Model& model, const Plan& decode, const PlanOptions& options,
                        const ExitDefaults& defaults);

// --exit-kv alone.
cli::Option* add_exit_kv_option(cli::App& app, std::optional<ExitKv>& kv);

}  // namespace reprise::tools
