#include "model/scheme_files.h"

#include <map>

namespace reprise {

const SchemeFiles* scheme_files(const std::string& scheme) {
  static const std::map<std::string, SchemeFiles> known = {
      {"trol", {{"trol_gating.weight", "trol_gating.bias"}, write_trol_gate}},
  };
  const auto it = known.find(scheme);
  return it == known.end() ? nullptr : &it->second;
}

}  // namespace reprise
