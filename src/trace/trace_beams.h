// What `reprise trace --beams` adds to a trace.
#pragma once

#include <vector>

#include "engine/beam_search.h"
#include "trace/trace.h"

namespace reprise {

// Appends, of a beam search after the inputs, of at most options.steps tokens (>= 1), ended by the
// config's end tokens:
//   beams.tokens I64 [returned, longest]   the end token included, -1 behind it
//   beams.scores F32 [returned]
void trace_beams(LoadedModel& loaded, const TokenInputs& inputs, const TraceOptions& options,
                 const BeamOptions& beam, std::vector<TensorView>& results);

}  // namespace reprise
