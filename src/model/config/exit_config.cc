#include "model/config/exit_config.h"

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"

namespace reprise {
namespace {

// What users write and may write, kind by kind.
struct KindEntry {
  ExitKind kind;
  const char* name;
  const char* range;
  bool (*fits)(double);
};
constexpr KindEntry kKinds[] = {
    {ExitKind::Confidence, "confidence", "a probability above 0, up to 1",
     [](double t) { return t > 0 && t <= 1; }},
    {ExitKind::Entropy, "entropy", "a number of nats from 0",
     [](double t) { return t >= 0 && std::isfinite(t); }},
    {ExitKind::Similarity, "similarity", "a cosine from -1 to 1",
     [](double t) { return t >= -1 && t <= 1; }},
    {ExitKind::Gate, "gate", "a probability from 0 to 1",
     [](double t) { return t >= 0 && t <= 1; }},
    {ExitKind::Depth, "depth", "a whole number of loops from 1",
     [](double t) { return t >= 1 && t <= 1e6 && t == std::floor(t); }},
};
constexpr std::pair<ExitKv, const char*> kPolicies[] = {
    {ExitKv::Propagate, "propagate"}, {ExitKv::Exact, "exact"}, {ExitKv::Share, "share"}};

const KindEntry* find_kind(std::string_view name) {
  for (const KindEntry& entry : kKinds)
    if (entry.name == name) return &entry;
  return nullptr;
}

const KindEntry& entry_of(ExitKind kind) {
  for (const KindEntry& entry : kKinds)
    if (entry.kind == kind) return entry;
  REPRISE_CHECK(false, "no rule to leave by");
}

}  // namespace

std::string exit_kind_name(ExitKind kind) {
  return kind == ExitKind::None ? "none" : entry_of(kind).name;
}

std::string exit_kv_name(ExitKv kv) {
  for (const auto& [policy, name] : kPolicies)
    if (policy == kv) return name;
  REPRISE_CHECK(false, "no such policy");
}

std::string exit_kind_list() {
  std::string list;
  for (size_t i = 0; i < std::size(kKinds); ++i)
    list += fmt::format("{}{}",
                        i == 0                      ? ""
                        : i + 1 < std::size(kKinds) ? ", "
                                                    : " or ",
                        kKinds[i].name);
  return list;
}

ExitKind parse_exit_kind(std::string_view name) {
  const KindEntry* entry = find_kind(name);
  if (!entry) fail("expected {}, found '{}'", exit_kind_list(), name);
  return entry->kind;
}

ExitKv parse_exit_kv(std::string_view name) {
  for (const auto& [policy, known] : kPolicies)
    if (known == name) return policy;
  fail("expected propagate, exact or share, found '{}'", name);
}

std::string exit_threshold_problem(ExitKind kind, double threshold) {
  const KindEntry& entry = entry_of(kind);
  return entry.fits(threshold) ? "" : fmt::format("expected {}, found {}", entry.range, threshold);
}

ExitConfig parse_exit(std::string_view text) {
  ExitConfig exit;
  if (text == "none") return exit;
  const size_t colon = text.find(':');
  const KindEntry* entry = find_kind(text.substr(0, colon));
  if (!entry || colon == std::string_view::npos)
    fail(
        "expected confidence:T, entropy:T, similarity:T, gate:T, depth:N or none (such as "
        "confidence:0.9), found '{}'",
        text);
  const std::string_view number = text.substr(colon + 1);
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), exit.threshold);
  if (error != std::errc() || end != number.data() + number.size() || !entry->fits(exit.threshold))
    fail("{}: expected {}, found '{}'", entry->name, entry->range, number);
  exit.kind = entry->kind;
  return exit;
}

std::string exit_text(const ExitConfig& exit) {
  if (!exit.active()) return "none";
  return fmt::format("{}:{}", exit_kind_name(exit.kind), exit.threshold);
}

ExitConfig read_exit_config(const JsonObject& json) {
  ExitConfig exit;
  const size_t before = json.problems();
  const std::string kind = json.get_string("kind"), kv = json.get_string("kv");
  exit.threshold = json.get_number("threshold");
  json.allow_only({"kind", "threshold", "kv"});
  if (json.problems() > before) return {};
  const auto attempt = [&](const char* key, const auto& read) {
    try {
      read();
    } catch (const Error& error) {
      json.fail_at(key, error.what());
    }
  };
  attempt("kind", [&] { exit.kind = parse_exit_kind(kind); });
  attempt("kv", [&] { exit.kv = parse_exit_kv(kv); });
  const std::string problem = exit_threshold_problem(exit.kind, exit.threshold);
  if (!problem.empty()) json.fail_at("threshold", problem);
  return exit;
}

Json exit_config_to_json(const ExitConfig& exit) {
  return {{"kind", exit_kind_name(exit.kind)},
          {"threshold", exit.threshold},
          {"kv", exit_kv_name(exit.kv)}};
}

}  // namespace reprise
