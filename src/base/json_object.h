// A view of one JSON object whose errors name the file and the key; strict by default: a missing key
// or one of the wrong type is an Error, an optional one has to be asked for as such. For sources
// that read keys and don't touch Json itself: they need not compile nlohmann/json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json_fwd.h"

namespace reprise {

// A view of one JSON object that knows where it came from.
class JsonObject {
 public:
  // `where` is the file, `prefix` the path of keys down to this object ("llm_config."). With
  // `problems`, what is wrong with a value is added there instead of thrown and the getter returns
  // something harmless of the right type (the lower bound, 1, false, "", no numbers), so that a
  // reader can go on and list everything at once; it must outlive the object and its children.
  JsonObject(const Json& json, std::string where, std::string prefix = "",
             Problems* problems = nullptr);

  bool has(const std::string& key) const;  // present and not null
  int64_t get_int(const std::string& key) const;
  // As get_int, and the value must lie in [low, high].
  int64_t get_int(const std::string& key, int64_t low, int64_t high) const;
  double get_number(const std::string& key) const;
  bool get_bool(const std::string& key) const;
  std::string get_string(const std::string& key) const;
  std::vector<double> get_numbers(const std::string& key) const;
  JsonObject get_object(const std::string& key) const;
  // A view of another object in this one's place: of the same file, noting problems alike.
  JsonObject instead(const Json& json) const { return {json, where_, prefix_, problems_}; }
  std::optional<int64_t> find_int(const std::string& key) const;  // nullopt when absent or null
  std::optional<double> find_number(const std::string& key) const;
  std::optional<bool> find_bool(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  std::optional<JsonObject> find_object(const std::string& key) const;

  // Notes every key that isn't one of `known`: a misspelt one would count as left out.
  void allow_only(const std::vector<std::string>& known) const;

  // Throws Error "<where>: key '<prefix><key>': <message>": there is no going on.
  [[noreturn]] void fail_at(const std::string& key, const std::string& message) const;
  // The same, but only noted where problems are collected.
  void problem_at(const std::string& key, const std::string& message) const;

  // Problems noted so far, by this object and all that share its list.
  size_t problems() const { return problems_ ? problems_->list().size() : 0; }

  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }

 private:
  // The value if `fits` holds for it; null after a problem was noted.
  const Json* at(const std::string& key, const char* expected, bool (*fits)(const Json&)) const;
  const Json* json_;  // not owned
  std::string where_;
  std::string prefix_;
  Problems* problems_;
};

}  // namespace reprise
