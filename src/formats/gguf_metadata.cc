#include <array>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "formats/gguf.h"

namespace reprise {
namespace {

constexpr std::array<const char*, 13> kTypeNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

template <class T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

// The value of any integer alternative; nullopt for other types and above int64.
std::optional<int64_t> as_int(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::optional<int64_t> {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, uint64_t>) {
          if (v > uint64_t{INT64_MAX}) return std::nullopt;
        }
        if constexpr (kIsInteger<T>) return static_cast<int64_t>(v);
        return std::nullopt;
      },
      value);
}

}  // namespace

std::string gguf_type_string(const GgufValue& value) {
  const auto* array = std::get_if<GgufArray>(&value);
  if (!array) return kTypeNames[value.index()];
  const size_t count = std::visit([](const auto& list) { return list.size(); }, array->items);
  return fmt::format("array of {} {}", count, kTypeNames[array->items.index()]);
}

void GgufMetadata::set(const std::string& key, GgufValue value) {
  const auto [it, added] = index_.emplace(key, entries_.size());
  if (added)
    entries_.emplace_back(key, std::move(value));
  else
    entries_[it->second].second = std::move(value);
}

void GgufMetadata::set(const std::string& key, std::vector<std::string> strings) {
  set(key, GgufValue(GgufArray{std::move(strings)}));
}

void GgufMetadata::erase(const std::string& key) {
  const auto it = index_.find(key);
  if (it == index_.end()) return;
  const size_t gone = it->second;
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(gone));
  index_.erase(it);
  for (auto& [name, place] : index_) place -= place > gone;
}

const GgufValue* GgufMetadata::find(const std::string& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

void GgufMetadata::fail_at(const std::string& key, const std::string& message) const {
  fail("{}: key '{}': {}", where_, key, message);
}

const GgufValue& GgufMetadata::at(const std::string& key, const char* expected) const {
  const GgufValue* value = find(key);
  if (!value) fail_at(key, fmt::format("is missing, expected {}", expected));
  return *value;
}

void GgufMetadata::wrong_type(const std::string& key, const char* expected,
                              const GgufValue& found) const {
  fail_at(key, fmt::format("expected {}, found {}", expected, gguf_type_string(found)));
}

int64_t GgufMetadata::get_int(const std::string& key) const {
  const GgufValue& value = at(key, "an integer");
  const std::optional<int64_t> number = as_int(value);
  if (!number) wrong_type(key, "an integer below 2^63", value);
  return *number;
}

int64_t GgufMetadata::get_int(const std::string& key, int64_t low, int64_t high) const {
  const int64_t value = get_int(key);
  if (value < low || value > high)
    fail_at(key, fmt::format("expected {} to {}, found {}", low, high, value));
  return value;
}

uint32_t GgufMetadata::get_u32(const std::string& key) const {
  return static_cast<uint32_t>(get_int(key, 0, std::numeric_limits<uint32_t>::max()));
}

double GgufMetadata::get_float(const std::string& key) const {
  const GgufValue& value = at(key, "a number");
  if (const auto* f = std::get_if<float>(&value)) return *f;
  if (const auto* d = std::get_if<double>(&value)) return *d;
  const std::optional<int64_t> number = as_int(value);
  if (!number) wrong_type(key, "a number", value);
  return static_cast<double>(*number);
}

bool GgufMetadata::get_bool(const std::string& key) const {
  const GgufValue& value = at(key, "a bool");
  if (const auto* b = std::get_if<bool>(&value)) return *b;
  wrong_type(key, "a bool", value);
}

const std::string& GgufMetadata::get_string(const std::string& key) const {
  const GgufValue& value = at(key, "a string");
  if (const auto* s = std::get_if<std::string>(&value)) return *s;
  wrong_type(key, "a string", value);
}

std::string GgufMetadata::get_bytes(const std::string& key) const {
  const GgufValue& value = at(key, "a string or an array of u8");
  if (const auto* s = std::get_if<std::string>(&value)) return *s;
  if (const auto* array = std::get_if<GgufArray>(&value))
    if (const auto* list = std::get_if<std::vector<uint8_t>>(&array->items))
      return std::string(list->begin(), list->end());
  wrong_type(key, "a string or an array of u8", value);
}

const std::vector<std::string>& GgufMetadata::get_strings(const std::string& key) const {
  const GgufValue& value = at(key, "an array of strings");
  if (const auto* array = std::get_if<GgufArray>(&value))
    if (const auto* list = std::get_if<std::vector<std::string>>(&array->items)) return *list;
  wrong_type(key, "an array of strings", value);
}

std::vector<int64_t> GgufMetadata::get_ints(const std::string& key) const {
  const GgufValue& value = at(key, "an array of integers");
  const auto* array = std::get_if<GgufArray>(&value);
  if (!array) wrong_type(key, "an array of integers", value);
  return std::visit(
      [&](const auto& list) -> std::vector<int64_t> {
        using T = typename std::decay_t<decltype(list)>::value_type;
        if constexpr (kIsInteger<T>) {
          std::vector<int64_t> numbers;
          numbers.reserve(list.size());
          for (const T item : list) {
            if constexpr (std::is_same_v<T, uint64_t>) {
              if (item > uint64_t{INT64_MAX}) fail_at(key, fmt::format("{} is too large", item));
            }
            numbers.push_back(static_cast<int64_t>(item));
          }
          return numbers;
        } else {
          wrong_type(key, "an array of integers", value);
        }
      },
      array->items);
}

std::vector<float> GgufMetadata::get_floats(const std::string& key) const {
  const GgufValue& value = at(key, "an array of f32 or f64");
  if (const auto* array = std::get_if<GgufArray>(&value)) {
    if (const auto* list = std::get_if<std::vector<float>>(&array->items)) return *list;
    if (const auto* list = std::get_if<std::vector<double>>(&array->items))
      return {list->begin(), list->end()};
  }
  wrong_type(key, "an array of f32 or f64", value);
}

std::vector<bool> GgufMetadata::get_bools(const std::string& key) const {
  const GgufValue& value = at(key, "an array of bools");
  if (const auto* array = std::get_if<GgufArray>(&value))
    if (const auto* list = std::get_if<std::vector<bool>>(&array->items)) return *list;
  wrong_type(key, "an array of bools", value);
}

std::optional<int64_t> GgufMetadata::find_int(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_int(key);
}
std::optional<double> GgufMetadata::find_float(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_float(key);
}
std::optional<bool> GgufMetadata::find_bool(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_bool(key);
}
std::optional<std::string> GgufMetadata::find_string(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return get_string(key);
}

}  // namespace reprise
