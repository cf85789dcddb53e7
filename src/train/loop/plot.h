// The training curve as an SVG picture, without any plotting library.
#pragma once

#include <filesystem>
#include <vector>

#include "train/loop/step_report.h"

namespace reprise {

// Loss (logarithmic, faint raw values under a running mean), validation loss and exact match.
void write_plot(const std::filesystem::path& path, const std::vector<StepReport>& reports);

}  // namespace reprise
