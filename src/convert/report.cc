#include "convert/report.h"

#include <algorithm>
#include <map>

#include "base/json.h"

namespace reprise {
namespace {

int64_t source_bytes(const ConvertedTensor& tensor) {
  return tensor_bytes(tensor.from, tensor.shape);
}

}  // namespace

std::vector<RoleSummary> summarize(const ConvertResult& result) {
  std::vector<RoleSummary> roles;
  std::map<std::string, std::map<DType, int64_t>> types;
  for (const ConvertedTensor& tensor : result.tensors) {
    auto it = std::find_if(roles.begin(), roles.end(),
                           [&](const RoleSummary& role) { return role.role == tensor.role; });
    if (it == roles.end()) {
      roles.emplace_back();
      it = roles.end() - 1;
      it->role = tensor.role;
    }
    ++it->tensors;
    it->values += num_elements(tensor.shape);
    it->source_bytes += source_bytes(tensor);
    it->bytes += tensor.bytes;
    it->error.add(tensor.error);
    types[tensor.role][tensor.to] += num_elements(tensor.shape);
  }
  for (RoleSummary& role : roles) {
    std::vector<std::pair<DType, int64_t>> order(types[role.role].begin(), types[role.role].end());
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    for (const auto& [type, values] : order)
      role.types += (role.types.empty() ? "" : ", ") + std::string(dtype_name(type));
  }
  std::stable_partition(roles.begin(), roles.end(),
                        [](const RoleSummary& role) { return role.role != "other"; });
  return roles;
}

std::vector<std::string> conversion_notes(const ConvertResult& result) {
  constexpr size_t kMostNamed = 5;
  const auto list = [&](TypeNote note, const std::string& what) -> std::vector<std::string> {
    std::vector<const ConvertedTensor*> found;
    for (const ConvertedTensor& tensor : result.tensors)
      if (tensor.note == note) found.push_back(&tensor);
    if (found.empty()) return {};
    std::string text = fmt::format("{} tensors {}:", found.size(), what);
    for (size_t i = 0; i < found.size() && i < kMostNamed; ++i)
      text += fmt::format("{} {} {} ({})", i ? "," : "", found[i]->name,
                          shape_string(found[i]->shape), dtype_name(found[i]->to));
    if (found.size() > kMostNamed) text += ", ...";
    return {text};
  };
  std::vector<std::string> notes = list(
      TypeNote::OddRows, "have rows whose length is no multiple of 32, so they stay in 16 bits");
  for (std::string& note :
       list(TypeNote::SmallerBlocks,
            "have rows whose length is no multiple of 256; they have a type with smaller blocks"))
    notes.push_back(std::move(note));
  for (std::string& note : list(TypeNote::AlreadySmaller,
                                "are quantized already and no larger than asked for; they stay"))
    notes.push_back(std::move(note));
  for (std::string& note :
       list(TypeNote::Vector, "are no matrices and can't be quantized; they stay"))
    notes.push_back(std::move(note));
  return notes;
}

Json conversion_report(const ConvertResult& result, bool tensors) {
  int64_t values = 0;
  Json roles = Json::array();
  for (const RoleSummary& role : summarize(result)) {
    values += role.values;
    roles.push_back({{"role", role.role},
                     {"tensors", role.tensors},
                     {"values", role.values},
                     {"types", role.types},
                     {"source_bytes", role.source_bytes},
                     {"bytes", role.bytes},
                     {"relative_rms", role.error.relative_rms()},
                     {"max_error", role.error.largest}});
  }
  Json report = {
      {"source_bytes", result.source_bytes},
      {"bytes", result.bytes},
      {"values", values},
      {"bits_per_weight",
       values > 0 ? 8.0 * static_cast<double>(result.bytes) / static_cast<double>(values) : 0.0},
      {"roles", std::move(roles)},
      {"notes", conversion_notes(result)}};
  if (tensors) {
    report["tensors"] = Json::array();
    for (const ConvertedTensor& tensor : result.tensors)
      report["tensors"].push_back({{"name", tensor.name},
                                   {"role", tensor.role},
                                   {"shape", tensor.shape},
                                   {"from", dtype_name(tensor.from)},
                                   {"type", dtype_name(tensor.to)},
                                   {"bytes", tensor.bytes},
                                   {"relative_rms", tensor.error.relative_rms()},
                                   {"max_error", tensor.error.largest}});
  }
  return report;
}

}  // namespace reprise
