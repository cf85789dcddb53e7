#include "train/loop/log.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace reprise {
namespace {

// Every other number of a line is one of the objective's values.
constexpr std::string_view kOwnKeys[] = {"step",
                                         "steps",
                                         "loss",
                                         "learning_rate",
                                         "gradient_norm",
                                         "tokens",
                                         "tokens_per_second",
                                         "validation_loss",
                                         "validation_exact"};

Json report_to_json(const StepReport& report) {
  Json json = {{"step", report.step},
               {"steps", report.steps},
               {"loss", report.loss},
               {"learning_rate", report.learning_rate},
               {"gradient_norm", report.gradient_norm},
               {"tokens", report.tokens},
               {"tokens_per_second", report.tokens_per_second}};
  if (!report.seconds.empty()) json["seconds"] = report.seconds;
  for (const auto& [name, value] : report.values) json[name] = value;
  if (report.validation_loss) json["validation_loss"] = *report.validation_loss;
  if (report.validation_exact) json["validation_exact"] = *report.validation_exact;
  return json;
}

}  // namespace

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
    if (json.contains("seconds") && json["seconds"].is_object())
      for (const auto& [part, seconds] : json["seconds"].items())
        if (seconds.is_number()) report.seconds[part] = seconds.get<double>();
    report.validation_loss = object.find_number("validation_loss");
    report.validation_exact = object.find_number("validation_exact");
    for (const auto& [key, value] : json.items())
      if (value.is_number() && std::ranges::find(kOwnKeys, key) == std::end(kOwnKeys))
        report.values[key] = value.get<double>();
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
