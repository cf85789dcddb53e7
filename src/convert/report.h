// What a conversion did, for people and for programs.
#pragma once

#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "convert/convert.h"

namespace reprise {

// All tensors of one role together.
struct RoleSummary {
  std::string role;
  int64_t tensors = 0;
  int64_t values = 0;
  int64_t source_bytes = 0;
  int64_t bytes = 0;
  std::string types;  // "Q4_0, F16": what they are stored as, the most values first
  ConversionError error;
};

// In the order in which roles first appear; "other" last.
std::vector<RoleSummary> summarize(const ConvertResult& result);

// Sentences about what isn't as one might expect: rows that can't be quantized, tensors that were
// quantized before.
std::vector<std::string> conversion_notes(const ConvertResult& result);

// {"bytes", "source_bytes", "bits_per_weight", "roles": [{"role", "tensors", "values", "types",
// "source_bytes", "bytes", "relative_rms", "max_error"}], "notes"}; with `tensors` the same for
// each tensor.
Json conversion_report(const ConvertResult& result, bool tensors);

}  // namespace reprise
