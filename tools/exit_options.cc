#include "tools/exit_options.h"

#include <string>

#include "model/scheme_type.h"
#include "tools/options.h"

namespace reprise::tools {

void ExitFlags::add(cli::App& app, const ExitDefaults& defaults) {
  defaults_ = defaults;
  const bool own = defaults.stored || defaults.official;
  rule_ = app.add_option_function(
      "--exit", [this](const std::string& text) { asked_.rule = parse_exit(text); },
      std::string("Tokens leave a looped model at the first loop whose logits have a probability "
                  ">= T (confidence:T) or an entropy <= T nats (entropy:T), whose state has a "
                  "cosine >= T with the loop's before (similarity:T) or a gate >= T (gate:T), "
                  "where the gates so far sum up to a probability >= T (cdf:T), after N loops "
                  "(depth:N), or at loop N, from 0 (step:N); weighted: the mean of all loops. Or "
                  "where the answer has settled: its KL divergence from the loop's before (kl:T, "
                  "minp-kl:T), its entropy's change (entropy-diff:T), the state's (latent-diff:T, "
                  "cosine:T), or the likeliest token, N times the same (argmax-stability:N)") +
          (own ? "; none: not even where the model's config says so" : ""));
  rule_->check(parsed_by(parse_exit))->type_name("RULE");
  if (own) rule_->default_str("the model's own, or none");
  add_exit_kv_option(app, asked_.kv);
  app.add_option_function(
         "--exit-mode", [this](const std::string& text) { asked_.mode = parse_exit_mode(text); },
         "skip: loops left out are not run; select: all are, and the rule only chooses, of a "
         "prompt's tokens too, whose logits count")
      ->check(parsed_by(parse_exit_mode))
      ->type_name("select|skip")
      ->default_str(defaults.select ? "select where the model's own code does" : "skip");
}

cli::Option* add_exit_kv_option(cli::App& app, std::optional<ExitKv>& kv) {
  return app
      .add_option_function(
          "--exit-kv", [&kv](const std::string& text) { kv = parse_exit_kv(text); },
          "Keys and values of a token that left, in the loops it left out: those of the full depth, "
          "run later (exact), projections of its exit state (propagate), copies of its last loop's "
          "(share), or none (missing)")
      ->check(parsed_by(parse_exit_kv))
      ->type_name("exact|propagate|share|missing")
      ->default_str("exact");
}

std::string given_exit_option(const Model& model, const PlanOptions& options) {
  const SchemeType* type = find_scheme(model.config().scheme);
  for (const auto& [name, value] : options.values()) {
    const SchemeOption* option = type ? type->option(name, SchemeOption::When::Request) : nullptr;
    if (option && option->exit) return option_flag(name);
  }
  return "";
}

ExitConfig asked_exit(const Model& model, const Plan& decode, const PlanOptions& options) {
  const std::string flag = given_exit_option(model, options);
  if (flag.empty()) return {};
  const ExitConfig exit = model.scheme().official_exit(options).value_or(ExitConfig());
  try {
    model.check_exit(exit, decode);
  } catch (const Error& error) {
    fail("{}: {}", flag, error.what());
  }
  return exit;
}

ExitConfig default_exit(const Model& model, const Plan& decode, const PlanOptions& options,
                        const ExitDefaults& defaults) {
  ExitConfig exit;
  if (defaults.stored) exit = model.stored_exit(decode);
  if (defaults.official && !exit.active() && decode.loops() > 0)
    exit = model.scheme().official_exit(options).value_or(ExitConfig());
  return exit;
}

ExitConfig ExitFlags::resolve(const Model& model, const Plan& decode,
                              const PlanOptions& options) const {
  const ModelConfig& config = model.config();
  const std::string option = given_exit_option(model, options);
  if (given() && !option.empty())
    fail("--exit {} and {}: both say when tokens leave, expected one of them",
         exit_text(asked_.rule), option);
  ExitConfig exit = asked_.rule;
  std::string where = "--exit ";
  if (!option.empty()) {
    exit = asked_exit(model, decode, options);
    where = option + ": ";
  } else if (!given()) {
    // The stored rule is read where it is used alone: --exit takes the place of a bad one too.
    exit = default_exit(model, decode, options, defaults_);
    where = config.where + ": ";
  }
  const auto refuse_alone = [&](const std::string& said) {
    if (!exit.active())
      fail("{}: expected a rule to leave by (--exit){}", said, given() ? ", found none" : "");
  };
  if (asked_.kv) refuse_alone("--exit-kv " + exit_kv_name(*asked_.kv));
  if (asked_.mode) refuse_alone("--exit-mode " + exit_mode_name(*asked_.mode));
  exit = given() ? asked_.in(model, options) : asked_.beside(exit);
  if (!asked_.mode && defaults_.select && model.scheme().selects()) exit.mode = ExitMode::Select;
  try {
    model.check_exit(exit, decode);
  } catch (const Error& error) {
    fail("{}{}", where, error.what());
  }
  return exit;
}

}  // namespace reprise::tools
