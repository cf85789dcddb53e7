#include "model/config/exit_config.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"

namespace reprise {
namespace {

// What users write and may write, kind by kind.
struct KindEntry {
  ExitKind kind;
  const char* name;
  const char* range;  // null: it has no threshold
  bool (*fits)(double);
  const char* form = ":T";  // behind the name
};
constexpr const char* kFromZero = "a number from 0";
constexpr bool from_zero(double t) { return t >= 0 && t <= std::numeric_limits<double>::max(); }
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
     [](double t) { return t >= 1 && t <= 1e6 && t == std::floor(t); }, ":N"},
    {ExitKind::Step, "step", "a loop's number from 0",
     [](double t) { return t >= 0 && t <= 1e6 && t == std::floor(t); }, ":N"},
    {ExitKind::Cdf, "cdf", "a probability from 0 (above 1 nobody leaves)",
     [](double t) { return t >= 0 && std::isfinite(t); }},
    {ExitKind::Weighted, "weighted", nullptr, [](double t) { return t == 0; }, ""},
    {ExitKind::Kl, "kl", kFromZero, from_zero},
    {ExitKind::MinPKl, "minp-kl", kFromZero, from_zero},
    {ExitKind::EntropyDiff, "entropy-diff", kFromZero, from_zero},
    {ExitKind::ArgmaxStability, "argmax-stability", "a whole number of times from 1",
     [](double t) { return t >= 1 && t <= 1e6 && t == std::floor(t); }, ":N"},
    {ExitKind::LatentDiff, "latent-diff", kFromZero, from_zero},
    {ExitKind::Cosine, "cosine", kFromZero, from_zero},
};
constexpr std::pair<ExitKv, const char*> kPolicies[] = {{ExitKv::Propagate, "propagate"},
                                                        {ExitKv::Exact, "exact"},
                                                        {ExitKv::Share, "share"},
                                                        {ExitKv::Missing, "missing"}};
constexpr std::pair<ExitMode, const char*> kModes[] = {{ExitMode::Select, "select"},
                                                       {ExitMode::Skip, "skip"}};

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

// A mean of all loops leaves none out.
ExitMode mode_of(ExitKind kind) {
  return kind == ExitKind::Weighted ? ExitMode::Select : ExitMode::Skip;
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

std::string exit_mode_name(ExitMode mode) {
  for (const auto& [known, name] : kModes)
    if (known == mode) return name;
  REPRISE_CHECK(false, "no such mode");
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
  fail("expected propagate, exact, share or missing, found '{}'", name);
}

ExitMode parse_exit_mode(std::string_view name) {
  for (const auto& [mode, known] : kModes)
    if (known == name) return mode;
  fail("expected select or skip, found '{}'", name);
}

std::string exit_threshold_problem(ExitKind kind, double threshold) {
  const KindEntry& entry = entry_of(kind);
  return entry.fits(threshold)
             ? ""
             : fmt::format("expected {}, found {}", entry.range ? entry.range : "none", threshold);
}

ExitConfig parse_exit(std::string_view text) {
  ExitConfig exit;
  if (text == "none") return exit;
  const size_t colon = text.find(':');
  const KindEntry* entry = find_kind(text.substr(0, colon));
  if (!entry || (colon == std::string_view::npos) != !entry->range) {
    std::string forms;
    for (const KindEntry& known : kKinds) forms += fmt::format("{}{}, ", known.name, known.form);
    forms.replace(forms.size() - 2, 2, " or none");
    fail("expected {} (such as confidence:0.9), found '{}'", forms, text);
  }
  exit.kind = entry->kind;
  exit.mode = mode_of(exit.kind);
  if (!entry->range) return exit;
  const std::string_view number = text.substr(colon + 1);
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), exit.threshold);
  if (error != std::errc() || end != number.data() + number.size() || !entry->fits(exit.threshold))
    fail("{}: expected {}, found '{}'", entry->name, entry->range, number);
  return exit;
}

std::string exit_text(const ExitConfig& exit) {
  if (!exit.active()) return "none";
  const KindEntry& entry = entry_of(exit.kind);
  return entry.range ? fmt::format("{}:{}", entry.name, exit.threshold) : entry.name;
}

ExitConfig read_exit_config(const JsonObject& json) {
  ExitConfig exit;
  const size_t before = json.problems();
  const std::string kind = json.get_string("kind"), kv = json.get_string("kv");
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
  exit.mode = mode_of(exit.kind);
  if (entry_of(exit.kind).range || json.has("threshold"))
    exit.threshold = json.get_number("threshold");
  if (json.problems() > before) return {};
  const std::string problem = exit_threshold_problem(exit.kind, exit.threshold);
  if (!problem.empty()) json.fail_at("threshold", problem);
  return exit;
}

Json exit_config_to_json(const ExitConfig& exit) {
  Json json = {{"kind", exit_kind_name(exit.kind)}, {"kv", exit_kv_name(exit.kv)}};
  if (entry_of(exit.kind).range) json["threshold"] = exit.threshold;
  return json;
}

}  // namespace reprise
