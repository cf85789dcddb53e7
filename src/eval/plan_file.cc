#include "eval/plan_file.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/json_object.h"

namespace reprise {
namespace {

constexpr const char* kVersionKey = "reprise_plan_search";
constexpr int64_t kVersion = 1;
constexpr const char* kInfinite = "inf";  // of a plan whose logits are no numbers

// null: not measured.
Json to_json(const PlanFigures& figures) {
  Json all = Json::object();
  for (const auto& [plan, units] : figures) {
    Json list = Json::array();
    bool any = false;
    for (const double nats : units) {
      any = any || !std::isnan(nats);
      list.push_back(std::isnan(nats) ? Json() : std::isinf(nats) ? Json(kInfinite) : Json(nats));
    }
    if (any) all[plan] = std::move(list);
  }
  return all;
}

PlanFigures figures_from(const Json& json, const std::string& where, size_t units) {
  if (!json.is_object()) fail("{}: expected an object of plans", where);
  PlanFigures figures;
  for (const auto& [plan, list] : json.items()) {
    if (!list.is_array() || list.size() != units)
      fail("{}: plan '{}': expected a list of {} figures", where, plan, units);
    std::vector<double>& nats = figures[plan];
    for (const Json& one : list) {
      if (one.is_null())
        nats.push_back(std::numeric_limits<double>::quiet_NaN());
      else if (one.is_number())
        nats.push_back(one.get<double>());
      else if (one == kInfinite)
        nats.push_back(std::numeric_limits<double>::infinity());
      else
        fail("{}: plan '{}': expected numbers, null or \"{}\", found {}", where, plan, kInfinite,
             one.dump());
    }
  }
  return figures;
}

Json part(const Json& json, const char* key, const std::string& where) {
  const auto it = json.find(key);
  if (it == json.end()) fail("{}: key '{}' is missing", where, key);
  return *it;
}

}  // namespace

void PlanFile::load(const std::filesystem::path& path, size_t calibration_units,
                    size_t held_out_units) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  const std::string where = path.string();
  const Json json = load_json(path);
  if (!json.is_object() || json.value(kVersionKey, Json()) != kVersion)
    fail(
        "{}: is no file of a plan search (key '{}' is not {}); expected one, or a name that isn't there",
        where, kVersionKey, kVersion);
  const Json found = part(json, "inputs", where);
  for (const auto& [key, value] : inputs.items())
    if (!found.is_object() || found.value(key, Json()) != value)
      fail(
          "{}: is of a search with other inputs: '{}' was {}, now it is {}; expected the same, or another --out",
          where, key, found.is_object() ? found.value(key, Json()).dump() : "nothing",
          value.dump());
  calibration = figures_from(part(json, "calibration", where), where + ": key 'calibration'",
                             calibration_units);
  held_out =
      figures_from(part(json, "held_out", where), where + ": key 'held_out'", held_out_units);
  result = part(json, "result", where);
}

void PlanFile::save(const std::filesystem::path& path) const {
  const Json json = {{kVersionKey, kVersion},
                     {"inputs", inputs},
                     {"result", result},
                     {"calibration", to_json(calibration)},
                     {"held_out", to_json(held_out)}};
  write_file_atomically(path, json.dump(1) + "\n");
}

}  // namespace reprise
