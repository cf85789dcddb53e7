// A trace's inputs as the prompt that a session takes.
#pragma once

#include "engine/trace.h"

namespace reprise {

// Encodes the pixels, which the observer (or null) sees. Throws Error where they or the
// placeholders don't fit the model.
TokenPrompt trace_prompt(Engine& engine, const TraceInputs& inputs, Observer* observer = nullptr);

}  // namespace reprise
