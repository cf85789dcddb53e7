#include "tools/cli.h"

#include <CLI/CLI.hpp>
#include <filesystem>

namespace reprise::tools::cli {

Check::Check(std::function<std::string(const std::string&)> check)
    : validator_(std::make_shared<CLI::Validator>(
          [check = std::move(check)](std::string& text) { return check(text); }, "")) {}
Check::Check(CLI::Validator validator)
    : validator_(std::make_shared<CLI::Validator>(std::move(validator))) {}

Check Range(int low, int high) { return Check(CLI::Range(low, high)); }
Check Range(int64_t low, int64_t high) { return Check(CLI::Range(low, high)); }
Check Range(float low, float high) { return Check(CLI::Range(low, high)); }
Check IsMember(const std::vector<std::string>& words) { return Check(CLI::IsMember(words)); }
Check NonNegativeNumber() { return Check(CLI::NonNegativeNumber); }
Check AsSizeValue(bool kb_is_1000) { return Check(CLI::AsSizeValue(kb_is_1000)); }

Option* Option::check(const Check& check) {
  option_->check(*check.validator_);
  return this;
}
Option* Option::transform(const Check& check) {
  option_->transform(*check.validator_);
  return this;
}
Option* Option::type_name(const std::string& name) {
  option_->type_name(name);
  return this;
}
Option* Option::required() {
  option_->required();
  return this;
}
Option* Option::capture_default_str() {
  option_->capture_default_str();
  return this;
}
Option* Option::default_str(const std::string& text) {
  option_->default_str(text);
  return this;
}
Option* Option::group(const std::string& name) {
  option_->group(name);
  return this;
}
Option* Option::needs(Option* other) {
  option_->needs(other->option_);
  return this;
}
Option* Option::excludes(Option* other) {
  option_->excludes(other->option_);
  return this;
}
Option* Option::repeatable() {
  option_->expected(1)->allow_extra_args(false)->multi_option_policy(
      CLI::MultiOptionPolicy::TakeAll);
  return this;
}
Option* Option::called_for_each() {
  option_->trigger_on_parse();
  return repeatable();
}
size_t Option::count() const { return option_->count(); }
std::string Option::name() const { return option_->get_name(); }

App::~App() = default;

Option* App::keep(CLI::Option* option) {
  options_.push_back(std::make_unique<Option>(option));
  return options_.back().get();
}

void App::description(const std::string& text) { app_->description(text); }
void App::footer(const std::string& text) { app_->footer(text); }

template <typename T>
Option* App::add_option(const std::string& name, T& value, const std::string& help) {
  return keep(app_->add_option(name, value, help));
}
#define REPRISE_OPTION_TYPE(T) \
  template Option* App::add_option(const std::string&, T&, const std::string&);
REPRISE_OPTION_TYPE(std::string)
REPRISE_OPTION_TYPE(std::filesystem::path)
REPRISE_OPTION_TYPE(std::vector<std::string>)
REPRISE_OPTION_TYPE(std::vector<std::filesystem::path>)
REPRISE_OPTION_TYPE(std::vector<int64_t>)
REPRISE_OPTION_TYPE(int)
REPRISE_OPTION_TYPE(int64_t)
REPRISE_OPTION_TYPE(uint64_t)
REPRISE_OPTION_TYPE(float)
REPRISE_OPTION_TYPE(double)
#undef REPRISE_OPTION_TYPE

Option* App::add_option_function(const std::string& name,
                                 const std::function<void(const std::string&)>& take,
                                 const std::string& help) {
  return keep(app_->add_option_function<std::string>(name, take, help));
}
Option* App::add_flag(const std::string& name, bool& value, const std::string& help) {
  return keep(app_->add_flag(name, value, help));
}
Option* App::add_flag_callback(const std::string& name, const std::function<void()>& given,
                               const std::string& help) {
  return keep(app_->add_flag_callback(name, given, help));
}
App* App::add_option_group(const std::string& name) {
  groups_.push_back(std::make_unique<App>(app_->add_option_group(name)));
  return groups_.back().get();
}
App* App::add_subcommand(const std::string& name) {
  groups_.push_back(std::make_unique<App>(app_->add_subcommand(name)));
  return groups_.back().get();
}
void App::require_subcommand() { app_->require_subcommand(1); }
bool App::parsed() const { return app_->parsed(); }
Option* App::get_option(const std::string& name) { return keep(app_->get_option(name)); }
void App::require_option(size_t exactly) { app_->require_option(static_cast<int>(exactly)); }
void App::require_option(size_t least, size_t most) { app_->require_option(least, most); }

}  // namespace reprise::tools::cli
