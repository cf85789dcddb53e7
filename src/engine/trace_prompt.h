// Trace inputs as a prompt.
#pragma once

#include "engine/trace.h"

namespace reprise {

// The prompt that these inputs are for a model: pixels are encoded, placeholders marked. Throws
// Error naming file and tensor.
TokenPrompt trace_prompt(Engine& engine, const TraceInputs& inputs, Observer* observer = nullptr);

}  // namespace reprise
