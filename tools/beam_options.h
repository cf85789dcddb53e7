// --beams and what belongs to it.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/beam_search.h"

namespace reprise::tools {

void add_beam_options(CLI::App& app, BeamOptions& options);

}  // namespace reprise::tools
