#include "train/recipe/section.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace reprise {

Section::Section(const YAML::Node& node, std::string where, std::string name)
    : node_(node), where_(std::move(where)), name_(std::move(name)) {
  if (!node_.IsNull() && !node_.IsMap()) bad("", "expected a mapping of keys");
  if (!node_.IsMap()) return;
  std::set<std::string> seen;  // yaml-cpp takes the first of two equal keys
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) bad("", "expected keys that are plain words");
    if (!seen.insert(entry.first.Scalar()).second) bad(entry.first.Scalar(), "is given twice");
  }
}

bool Section::has(const std::string& key) {
  known_.insert(key);
  return node_.IsMap() && node_[key] && !node_[key].IsNull();
}

void Section::read_int(const std::string& key, int64_t& value, int64_t low, int64_t high) {
  const bool given = has(key);
  read(key, value, "an integer");
  if (given && (value < low || value > high))
    bad(key, fmt::format("expected {} to {}, found {}", low, high, value));
}

void Section::read_number(const std::string& key, double& value, double low) {
  read(key, value, "a number");
  if (!(value >= low) || !std::isfinite(value))
    bad(key, fmt::format("expected a finite number of at least {}, found {}", low, value));
}

void Section::read_positive(const std::string& key, double& value) {
  read(key, value, "a number above 0");
  if (!(static_cast<float>(value) > 0) || !std::isfinite(static_cast<float>(value)))
    bad(key, fmt::format("expected a finite number above 0 (in float32), found {}", value));
}

void Section::read_share(const std::string& key, double& value) {
  read(key, value, "a number from 0 to below 1");
  if (!(value >= 0 && static_cast<float>(value) < 1))
    bad(key, fmt::format("expected a number from 0 to below 1 (in float32), found {}", value));
}

void Section::read_strings(const std::string& key, std::vector<std::string>& values) {
  read(key, values, "a list of strings");
}

void Section::read_path(const std::string& key, std::filesystem::path& value,
                        const std::filesystem::path& folder) {
  std::string text;
  read(key, text, "a path");
  if (!text.empty()) value = folder / text;  // an absolute path replaces the folder
}

YAML::Node Section::node(const std::string& key) { return has(key) ? node_[key] : YAML::Node(); }

void Section::finish() {
  if (!node_.IsMap()) return;
  for (const auto& entry : node_) {
    const std::string& key = entry.first.Scalar();
    if (known_.contains(key)) continue;
    std::string list;
    for (const std::string& name : known_) list += (list.empty() ? "" : ", ") + name;
    bad(key, "unknown key; expected one of " + list);
  }
}

void Section::bad(const std::string& key, const std::string& message) const {
  const YAML::Node at = key.empty() || !node_.IsMap() ? node_ : node_[key];
  const std::string line = at && at.Mark().line >= 0 ? fmt::format(":{}", at.Mark().line + 1) : "";
  fail("{}{}: key '{}{}{}': {}", where_, line, name_, name_.empty() || key.empty() ? "" : ".", key,
       message);
}

}  // namespace reprise
