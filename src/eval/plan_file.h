// The figures of a plan search as a JSON file (plans.json), by which one that was interrupted goes
// on: nothing in it is measured again.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/plan_search.h"

namespace reprise {

struct PlanFile {
  // What the figures depend on, in words and numbers: they are of no use to a search with others.
  Json inputs = Json::object();
  PlanFigures calibration, held_out;
  Json result;  // what the last search that came to its end reported; null before

  // Where there is a file at `path`, its figures. Throws Error naming file and key where it isn't one
  // of these, is of other inputs, or has another number of units.
  void load(const std::filesystem::path& path, size_t calibration_units, size_t held_out_units);
  void save(const std::filesystem::path& path) const;
};

}  // namespace reprise
