// --beams and what belongs to it.
#pragma once

#include <vector>

#include "engine/beam_search.h"
#include "tools/cli.h"

namespace reprise::tools {

// answers: --num-return-sequences too, for commands that show or write more than the best one.
// Gives all of them.
std::vector<cli::Option*> add_beam_options(cli::App& app, BeamOptions& options,
                                           bool answers = true);

}  // namespace reprise::tools
