// The command-line parser, in front of CLI11: the calls that commands use, under CLI11's own names,
// with nothing to compile. CLI11 is all templates and inline functions, several seconds for each
// source that sees it; here only cli.cc and main.cc do.
//
// Apps and options live as long as the program's App. Each call means what it means in CLI11.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
class Validator;
}  // namespace CLI

namespace reprise::tools::cli {

// What a value must be. Shown in the help, as "INT in [0 - 4]".
class Check {
 public:
  // `check` returns what is wrong with a text, "" for nothing; nothing is shown in the help.
  explicit Check(std::function<std::string(const std::string&)> check);
  explicit Check(CLI::Validator validator);

 private:
  friend class Option;
  std::shared_ptr<const CLI::Validator> validator_;
};

Check Range(int low, int high);
Check Range(int64_t low, int64_t high);
Check Range(float low, float high);
Check IsMember(const std::vector<std::string>& words);
Check NonNegativeNumber();
// Turns "5GB" into a number of bytes: for Option::transform.
Check AsSizeValue(bool kb_is_1000);

class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  Option* check(const Check& check);
  Option* transform(const Check& check);
  Option* type_name(const std::string& name);
  Option* required();
  Option* capture_default_str();  // shows the variable's value as the default
  Option* default_str(const std::string& text);
  Option* group(const std::string& name);  // heading in the help
  Option* needs(Option* other);
  Option* excludes(Option* other);
  // One value each time it is given, all of them kept: for vectors.
  Option* repeatable();
  // The same for functions: called for each.
  Option* called_for_each();
  size_t count() const;      // times given
  std::string name() const;  // "--rank"

 private:
  CLI::Option* option_;
};

class App {
 public:
  explicit App(CLI::App* app) : app_(app) {}
  ~App();
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  void description(const std::string& text);
  void footer(const std::string& text);
  // The value is parsed into `value`. T: std::string, std::filesystem::path, vectors of them and of
  // int64_t, int, int64_t, uint64_t, float, double (see cli.cc).
  template <typename T>
  Option* add_option(const std::string& name, T& value, const std::string& help);
  Option* add_option_function(const std::string& name,
                              const std::function<void(const std::string&)>& take,
                              const std::string& help);
  Option* add_flag(const std::string& name, bool& value, const std::string& help);
  Option* add_flag_callback(const std::string& name, const std::function<void()>& given,
                            const std::string& help);
  App* add_option_group(const std::string& name);
  App* add_subcommand(const std::string& name);
  void require_subcommand();  // one of them
  bool parsed() const;        // of a subcommand: it is the one given
  Option* get_option(const std::string& name);
  // How many of a group's options may be given.
  void require_option(size_t exactly);
  void require_option(size_t least, size_t most);

 private:
  Option* keep(CLI::Option* option);

  CLI::App* app_;
  std::vector<std::unique_ptr<Option>> options_;
  std::vector<std::unique_ptr<App>> groups_;
};

}  // namespace reprise::tools::cli
