#include "tools/exit_options.h"

#include <string>

namespace reprise::tools {
namespace {

// A text that `parse` takes; what it throws says what is wrong with others.
template <class Parse>
cli::Check parsed_by(Parse parse) {
  return cli::Check([parse](const std::string& text) -> std::string {
    try {
      parse(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  });
}

}  // namespace

void ExitFlags::add(cli::App& app, bool own_rule) {
  own_rule_ = own_rule;
  rule_ = app.add_option_function(
      "--exit", [this](const std::string& text) { exit_ = parse_exit(text); },
      std::string("Generated tokens leave a looped model at the first loop whose logits have a "
                  "probability >= T (confidence:T) or an entropy <= T nats (entropy:T), whose "
                  "state has a cosine >= T with the loop's before (similarity:T) or a gate >= T "
                  "(gate:T), or after N loops (depth:N)") +
          (own_rule ? "; none: not even where the model's config says so" : ""));
  rule_->check(parsed_by(parse_exit))->type_name("RULE");
  if (own_rule) rule_->default_str("the model's own, or none");
  add_exit_kv_option(app, kv_);
}

cli::Option* add_exit_kv_option(cli::App& app, std::optional<ExitKv>& kv) {
  return app
      .add_option_function(
          "--exit-kv", [&kv](const std::string& text) { kv = parse_exit_kv(text); },
          "Keys and values of a token that left, in the loops it left out: those of the full depth, "
          "run later (exact), projections of its exit state (propagate), or copies of its last "
          "loop's (share)")
      ->check(parsed_by(parse_exit_kv))
      ->type_name("exact|propagate|share")
      ->default_str("exact");
}

ExitConfig ExitFlags::resolve(const Model& model, const Plan& decode) const {
  // The stored rule is read where it is used alone: --exit takes the place of a bad one too.
  ExitConfig exit = own_rule_ && !given() ? model.stored_exit(decode) : exit_;
  if (kv_ && !exit.active())
    fail("--exit-kv {}: expected a rule to leave by (--exit){}", exit_kv_name(*kv_),
         given() ? ", found none" : "");
  if (kv_) exit.kv = *kv_;
  if (!given()) return exit;
  try {
    model.check_exit(exit, decode);
  } catch (const Error& error) {
    fail("--exit {}", error.what());
  }
  return exit;
}

}  // namespace reprise::tools
