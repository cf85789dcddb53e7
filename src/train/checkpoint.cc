#include "train/checkpoint.h"

#include <charconv>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "train/trainer.h"

namespace reprise {
namespace {

constexpr const char* kM = "adam.m.";
constexpr const char* kV = "adam.v.";
constexpr const char* kStep = "adam.step.";

Json report_to_json(const StepReport& report) {
  Json json = {{"step", report.step},
               {"steps", report.steps},
               {"loss", report.loss},
               {"learning_rate", report.learning_rate},
               {"gradient_norm", report.gradient_norm},
               {"tokens", report.tokens},
               {"tokens_per_second", report.tokens_per_second}};
  if (report.preference_loss) json["preference_loss"] = *report.preference_loss;
  if (report.preferred) json["preferred"] = *report.preferred;
  if (report.validation_loss) json["validation_loss"] = *report.validation_loss;
  if (report.validation_exact) json["validation_exact"] = *report.validation_exact;
  return json;
}

}  // namespace

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  std::vector<TensorView> tensors;
  for (const CheckpointEntry& entry : checkpoint.weights) {
    tensors.push_back(make_view(entry.name, entry.shape, entry.values));
    if (entry.adam.step == 0) continue;
    tensors.push_back(make_view(kM + entry.name, entry.shape, entry.adam.m));
    tensors.push_back(make_view(kV + entry.name, entry.shape, entry.adam.v));
    const int64_t step[] = {entry.adam.step};
    tensors.push_back(make_view(kStep + entry.name, Shape{1}, std::span<const int64_t>(step)));
  }
  write_safetensors(path, tensors,
                    {{"format", "reprise checkpoint"},
                     {"step", std::to_string(checkpoint.step)},
                     {"seconds", fmt::format("{:.3f}", checkpoint.seconds)},
                     {"frozen", checkpoint.frozen},
                     {"recipe", checkpoint.recipe}});
}

Checkpoint read_checkpoint(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) fail("{}: no checkpoint to resume from", path.string());
  const SafetensorsFile file = open_safetensors(path);
  Checkpoint checkpoint;
  const auto number = [&](const char* key, auto& value) {
    const auto it = file.metadata.find(key);
    bool ok = it != file.metadata.end();
    if (ok) {
      const char* end = it->second.data() + it->second.size();
      ok = std::from_chars(it->second.data(), end, value).ec == std::errc();
    }
    if (!ok)
      fail("{}: is no checkpoint of this program: metadata has no number '{}'", path.string(), key);
  };
  number("step", checkpoint.step);
  number("seconds", checkpoint.seconds);
  if (const auto it = file.metadata.find("frozen"); it != file.metadata.end())
    checkpoint.frozen = it->second;
  if (const auto it = file.metadata.find("recipe"); it != file.metadata.end())
    checkpoint.recipe = it->second;
  for (const TensorView& view : file.weights.tensors()) {
    if (view.name.starts_with("adam.")) continue;
    CheckpointEntry entry{view.name, view.shape, to_floats(view), {}};
    if (const TensorView* count = file.weights.find(kStep + view.name)) {
      const std::vector<int64_t> value = to_ints(*count);
      entry.adam.m = to_floats(file.weights.get(kM + view.name));
      entry.adam.v = to_floats(file.weights.get(kV + view.name));
      if (value.size() != 1 || entry.adam.m.size() != entry.values.size() ||
          entry.adam.v.size() != entry.values.size())
        fail("{}: Adam's state of '{}' has the wrong size", path.string(), view.name);
      entry.adam.step = value[0];
    }
    checkpoint.weights.push_back(std::move(entry));
  }
  return checkpoint;
}

void append_log(const std::filesystem::path& path, const StepReport& report) {
  std::ofstream out(path, std::ios::app);
  out << report_to_json(report).dump() << '\n';
  out.flush();
  if (!out) fail("{}: can't be written", path.string());
}

std::vector<StepReport> read_log(const std::filesystem::path& path, int64_t last_step) {
  std::vector<StepReport> reports;
  if (!std::filesystem::exists(path)) return reports;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) break;  // torn by a kill
    const JsonObject object(json, path.string());
    StepReport report;
    report.step = object.get_int("step");
    if (report.step > last_step) break;
    report.steps = object.get_int("steps");
    report.loss = object.get_number("loss");
    report.learning_rate = object.get_number("learning_rate");
    report.gradient_norm = object.get_number("gradient_norm");
    report.tokens = object.get_int("tokens");
    report.tokens_per_second = object.get_number("tokens_per_second");
    report.preference_loss = object.find_number("preference_loss");
    report.preferred = object.find_number("preferred");
    report.validation_loss = object.find_number("validation_loss");
    report.validation_exact = object.find_number("validation_exact");
    reports.push_back(report);
  }
  return reports;
}

void rewrite_log(const std::filesystem::path& path, const std::vector<StepReport>& reports) {
  std::string text;
  for (const StepReport& report : reports) text += report_to_json(report).dump() + "\n";
  write_file_atomically(path, text);
}

}  // namespace reprise
