// log.jsonl: one report a line.
#pragma once

#include <filesystem>
#include <vector>

#include "train/loop/step_report.h"

namespace reprise {

void append_log(const std::filesystem::path& path, const StepReport& report);
// The reports up to and including `last_step`; a torn last line is left out. Throws Error naming
// file and key where a line isn't a report.
std::vector<StepReport> read_log(const std::filesystem::path& path, int64_t last_step);
void rewrite_log(const std::filesystem::path& path, const std::vector<StepReport>& reports);

}  // namespace reprise
