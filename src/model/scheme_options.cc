#include "model/scheme_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace reprise {
namespace {

using Type = SchemeOption::Type;

template <class T>
std::optional<T> parse_as(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<OptionValue> value_of(const SchemeOption& option, std::string_view text) {
  switch (option.type) {
    case Type::Flag:
      if (text == "true" || text == "false") return text == "true";
      return std::nullopt;
    case Type::Integer:
      return parse_as<int64_t>(text);
    case Type::Number:
      return parse_as<double>(text);
    case Type::Choice:
    case Type::Text:
      return std::string(text);
  }
  return std::nullopt;
}

bool fits(const SchemeOption& option, const OptionValue& value) {
  const auto in_range = [&](double x) { return x >= option.low && x <= option.high; };
  switch (option.type) {
    case Type::Flag:
      return std::holds_alternative<bool>(value);
    case Type::Integer: {
      const auto* integer = std::get_if<int64_t>(&value);
      return integer && in_range(static_cast<double>(*integer));
    }
    case Type::Number: {
      if (const auto* integer = std::get_if<int64_t>(&value))
        return in_range(static_cast<double>(*integer));
      const auto* number = std::get_if<double>(&value);
      return number && in_range(*number);
    }
    case Type::Choice: {
      const auto* text = std::get_if<std::string>(&value);
      return text && std::ranges::count(option.choices, *text) > 0;
    }
    case Type::Text:
      return std::holds_alternative<std::string>(value);
  }
  return false;
}

[[noreturn]] void refuse(const SchemeOption& option, std::string_view found) {
  fail("expected {}, found '{}'", expected_value(option), found);
}

}  // namespace

std::string expected_value(const SchemeOption& option) {
  switch (option.type) {
    case Type::Flag:
      return "true or false";
    case Type::Integer:
      return fmt::format("an integer from {} to {}", option.low, option.high);
    case Type::Number:
      return fmt::format("a number from {} to {}", option.low, option.high);
    case Type::Choice: {
      std::string list;
      for (size_t i = 0; i < option.choices.size(); ++i)
        list += (i == 0 ? "" : i + 1 < option.choices.size() ? ", " : " or ") + option.choices[i];
      return list;
    }
    case Type::Text:
      return "a text";
  }
  return "";
}

OptionValue parse_option(const SchemeOption& option, std::string_view text) {
  const std::optional<OptionValue> value = value_of(option, text);
  if (!value || !fits(option, *value)) refuse(option, text);
  return *value;
}

void check_value(const SchemeOption& option, const OptionValue& value) {
  if (!fits(option, value)) refuse(option, value_text(value));
}

std::string value_text(const OptionValue& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

std::string option_flag(const std::string& name) {
  std::string flag = "--" + name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

bool SchemeOptions::flag(const std::string& name) const {
  const auto it = values_.find(name);
  return it != values_.end() && std::get<bool>(it->second);
}

std::optional<int64_t> SchemeOptions::integer(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) return std::nullopt;
  return std::get<int64_t>(it->second);
}

std::optional<double> SchemeOptions::number(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) return std::nullopt;
  if (const auto* integer = std::get_if<int64_t>(&it->second)) return static_cast<double>(*integer);
  return std::get<double>(it->second);
}

std::optional<std::string> SchemeOptions::text(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) return std::nullopt;
  return std::get<std::string>(it->second);
}

std::string SchemeOptions::command_line() const {
  std::string line;
  for (const auto& [name, value] : values_) {
    line += " " + option_flag(name);
    if (!std::holds_alternative<bool>(value)) line += " " + value_text(value);
  }
  return line;
}

}  // namespace reprise
