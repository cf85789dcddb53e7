// JSON for headers: names it without compiling nlohmann/json. Sources that look inside a value
// include base/json.h.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

namespace reprise {

using Json = nlohmann::json;
class JsonObject;  // base/json_object.h

// A Json as a member of a class: copied with it, null until something is assigned. Where a
// `const Json&` is expected it stands for its value.
class JsonValue {
 public:
  JsonValue() noexcept;
  JsonValue(const Json& value);  // NOLINT: implicit, as is a copy of a Json
  JsonValue(Json&& value);       // NOLINT
  JsonValue(const JsonValue& other);
  JsonValue(JsonValue&& other) noexcept;  // leaves null behind
  JsonValue& operator=(JsonValue other) noexcept;
  ~JsonValue();

  operator const Json&() const { return **this; }  // NOLINT
  const Json& operator*() const;
  const Json* operator->() const { return &**this; }

 private:
  std::unique_ptr<const Json> value_;  // none: null
};

}  // namespace reprise
