#include "base/json.h"

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

JsonObject::JsonObject(const Json& json, std::string where, std::string prefix)
    : json_(&json), where_(std::move(where)), prefix_(std::move(prefix)) {
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

const Json& JsonObject::at(const std::string& key, const char* expected) const {
  const auto it = json_->find(key);
  if (it == json_->end()) fail_at(key, std::string("is missing, expected ") + expected);
  return *it;
}

int64_t JsonObject::get_int(const std::string& key) const {
  const Json& value = at(key, "an integer");
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}))
    fail_at(key, "expected an integer, found " + value.dump().substr(0, 60));
  return value.get<int64_t>();
}

int64_t JsonObject::get_int(const std::string& key, int64_t low, int64_t high) const {
  const int64_t value = get_int(key);
  if (value < low || value > high)
    fail_at(key, fmt::format("expected {} to {}, found {}", low, high, value));
  return value;
}

double JsonObject::get_number(const std::string& key) const {
  const Json& value = at(key, "a number");
  if (!value.is_number()) fail_at(key, "expected a number, found " + value.dump().substr(0, 60));
  return value.get<double>();
}

bool JsonObject::get_bool(const std::string& key) const {
  const Json& value = at(key, "true or false");
  if (!value.is_boolean())
    fail_at(key, "expected true or false, found " + value.dump().substr(0, 60));
  return value.get<bool>();
}

std::string JsonObject::get_string(const std::string& key) const {
  const Json& value = at(key, "a string");
  if (!value.is_string()) fail_at(key, "expected a string, found " + value.dump().substr(0, 60));
  return value.get<std::string>();
}

std::vector<double> JsonObject::get_numbers(const std::string& key) const {
  const Json& value = at(key, "an array of numbers");
  if (!value.is_array()) fail_at(key, "expected an array of numbers");
  std::vector<double> numbers;
  for (const Json& item : value) {
    if (!item.is_number()) fail_at(key, "expected an array of numbers only");
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

JsonObject JsonObject::get_object(const std::string& key) const {
  return JsonObject(at(key, "an object"), where_, prefix_ + key + ".");
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
