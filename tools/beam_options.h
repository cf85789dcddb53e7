// --beams and what belongs to it.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/beam_search.h"

namespace reprise::tools {

// answers: --num-return-sequences too, for commands that show or write more than the best one.
void add_beam_options(CLI::App& app, BeamOptions& options, bool answers = true);

}  // namespace reprise::tools
