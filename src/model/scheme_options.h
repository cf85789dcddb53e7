// Options that schemes declare: one list, read by whoever takes them from a user (command line,
// training recipes, requests), and the values on their way to the scheme.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace reprise {

// Flag, Integer, Number, Choice and Text.
using OptionValue = std::variant<bool, int64_t, double, std::string>;

struct SchemeOption {
  enum class When {
    Request,  // each request may choose anew: how deep it runs
    Load,     // when a model's files are read
    Assembly  // when a recipe builds a model around an existing one
  };
  enum class Type { Flag, Integer, Number, Choice, Text };

  std::string name;  // of lower-case words, "last_gate": a recipe's key, and --last-gate
  When when = When::Request;
  Type type = Type::Text;
  std::string help = {};     // one line
  double low = 0, high = 0;  // Integer, Number: the first and the last value allowed
  std::vector<std::string> choices = {};
  std::string fallback = {};     // shown: the value of one that isn't given; empty: help says it
  std::string placeholder = {};  // of the value in help ("PLAN"); empty: by its type
  bool in_config = false;        // Assembly: kept in the model's config, "reprise.<scheme>.<name>"
  bool exit = false;             // Request: says when tokens leave loops (Scheme::official_exit)
  bool states = false;           // Request: says how initial states are drawn
};

// "INTEGER in [0, 4]", "all, image or text"; what a value must be.
std::string expected_value(const SchemeOption& option);
// Throws Error that says what was expected and found, without the option's name.
OptionValue parse_option(const SchemeOption& option, std::string_view text);
void check_value(const SchemeOption& option, const OptionValue& value);

std::string value_text(const OptionValue& value);
// On the command line: "--last-gate".
std::string option_flag(const std::string& name);

// Values by name; what isn't there wasn't given. Nothing here knows what they mean: check_options
// (scheme_type.h) says whether a model's scheme takes them.
class SchemeOptions {
 public:
  SchemeOptions() = default;
  SchemeOptions(std::initializer_list<std::pair<const std::string, OptionValue>> values)
      : values_(values) {}

  void set(const std::string& name, OptionValue value) { values_[name] = std::move(value); }
  bool has(const std::string& name) const { return values_.contains(name); }
  bool empty() const { return values_.empty(); }

  bool flag(const std::string& name) const;  // false where it isn't given
  std::optional<int64_t> integer(const std::string& name) const;
  std::optional<double> number(const std::string& name) const;  // an integer, too
  std::optional<std::string> text(const std::string& name) const;

  const std::map<std::string, OptionValue>& values() const { return values_; }
  // As on the command line, in the order of the names: " --passes 1 --plan 0-3".
  std::string command_line() const;
  bool operator==(const SchemeOptions&) const = default;

 private:
  std::map<std::string, OptionValue> values_;
};

// What a request asks of its plans: the scheme's options for requests.
using PlanOptions = SchemeOptions;

}  // namespace reprise
