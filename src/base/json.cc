#include "base/json.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace reprise {
namespace {

constexpr int kMaxDepth = 100;

}  // namespace

Json parse_json(const std::string& text, const std::string& where) {
  const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fail("{}: JSON nested deeper than {} levels", where, kMaxDepth);
    return true;
  };
  try {
    return Json::parse(text, limit_depth);
  } catch (const Json::exception& error) {
    fail("{}: not valid JSON: {}", where, error.what());
  }
}

Json load_json(const std::filesystem::path& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

JsonValue::JsonValue() noexcept = default;
JsonValue::JsonValue(const Json& value) : value_(std::make_unique<Json>(value)) {}
JsonValue::JsonValue(Json&& value) : value_(std::make_unique<Json>(std::move(value))) {}
JsonValue::JsonValue(const JsonValue& other)
    : value_(other.value_ ? std::make_unique<Json>(*other.value_) : nullptr) {}
JsonValue::JsonValue(JsonValue&& other) noexcept = default;
JsonValue& JsonValue::operator=(JsonValue other) noexcept {
  value_.swap(other.value_);
  return *this;
}
JsonValue::~JsonValue() = default;

const Json& JsonValue::operator*() const {
  static const Json null;
  return value_ ? *value_ : null;
}

JsonObject::JsonObject(const Json& json, std::string where, std::string prefix, Problems* problems)
    : json_(&json), where_(std::move(where)), prefix_(std::move(prefix)), problems_(problems) {
  if (!json.is_object())
    fail("{}: {}: expected a JSON object, found {}", where_,
         prefix_.empty() ? "top level" : "key '" + prefix_.substr(0, prefix_.size() - 1) + "'",
         json.type_name());
}

bool JsonObject::has(const std::string& key) const {
  const auto it = json_->find(key);
  return it != json_->end() && !it->is_null();
}

void JsonObject::fail_at(const std::string& key, const std::string& message) const {
  fail("{}: key '{}{}': {}", where_, prefix_, key, message);
}

void JsonObject::problem_at(const std::string& key, const std::string& message) const {
  if (!problems_) fail_at(key, message);
  problems_->add(fmt::format("{}: key '{}{}': {}", where_, prefix_, key, message));
}

void JsonObject::allow_only(const std::vector<std::string>& known) const {
  for (const auto& [key, value] : json_->items()) {
    if (std::ranges::find(known, key) != known.end()) continue;
    std::string list;
    for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
    problem_at(key, "is unknown here, expected " + (list.empty() ? "no keys" : "one of " + list));
  }
}

const Json* JsonObject::at(const std::string& key, const char* expected,
                           bool (*fits)(const Json&)) const {
  const auto it = json_->find(key);
  if (it == json_->end())
    problem_at(key, fmt::format("is missing, expected {}", expected));
  else if (!fits(*it))
    problem_at(key, fmt::format("expected {}, found {}", expected, it->dump().substr(0, 60)));
  else
    return &*it;
  return nullptr;
}

int64_t JsonObject::get_int(const std::string& key) const {
  const Json* value = at(key, "an integer", [](const Json& json) {
    return json.is_number_integer() &&
           !(json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX});
  });
  return value ? value->get<int64_t>() : 1;
}

int64_t JsonObject::get_int(const std::string& key, int64_t low, int64_t high) const {
  const size_t before = problems();
  const int64_t value = get_int(key);
  if (problems() > before) return low;
  if (value >= low && value <= high) return value;
  problem_at(key, fmt::format("expected {} to {}, found {}", low, high, value));
  return low;
}

double JsonObject::get_number(const std::string& key) const {
  const Json* value = at(key, "a number", [](const Json& json) { return json.is_number(); });
  return value ? value->get<double>() : 1;
}

bool JsonObject::get_bool(const std::string& key) const {
  const Json* value = at(key, "true or false", [](const Json& json) { return json.is_boolean(); });
  return value && value->get<bool>();
}

std::string JsonObject::get_string(const std::string& key) const {
  const Json* value = at(key, "a string", [](const Json& json) { return json.is_string(); });
  return value ? value->get<std::string>() : "";
}

std::vector<double> JsonObject::get_numbers(const std::string& key) const {
  const Json* value = at(key, "an array of numbers", [](const Json& json) {
    return json.is_array() &&
           std::all_of(json.begin(), json.end(), [](const Json& item) { return item.is_number(); });
  });
  return value ? value->get<std::vector<double>>() : std::vector<double>();
}

JsonObject JsonObject::get_object(const std::string& key) const {
  const auto it = json_->find(key);
  if (it == json_->end()) fail_at(key, "is missing, expected an object");
  return JsonObject(*it, where_, prefix_ + key + ".", problems_);
}

std::optional<int64_t> JsonObject::find_int(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_int(key);
}
std::optional<double> JsonObject::find_number(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_number(key);
}
std::optional<bool> JsonObject::find_bool(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_bool(key);
}
std::optional<std::string> JsonObject::find_string(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_string(key);
}
std::optional<JsonObject> JsonObject::find_object(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_object(key);
}

}  // namespace reprise
