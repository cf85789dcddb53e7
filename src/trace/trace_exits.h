// What `reprise trace --exit` adds to a trace.
#pragma once

#include <vector>

#include "trace/trace.h"

namespace reprise {

// Appends, of options.steps (>= 1) greedy tokens after the inputs, each leaving as `exit` says. The
// inputs run at full depth; N steps, B loops, D KV rows:
//   early.tokens       I64 [N + 1]        the first one follows the inputs
//   early.exit_loop    I64 [N]            0-based: where step i left, which chose tokens[i + 1]
//   early.exit_logits  F32 [N, V]         of that loop
//   early.exit_hidden  F32 [N, d]         the state they are made of, before the final norm
//   early.confidence   F32 [N, B]         largest probability of each loop's logits; -1: not computed
//   early.score        F32 [N, B]         what the rule compared; NaN: it wasn't asked
//   early.k, early.v   F32 [D, kv_heads, inputs + N, head_dim]  the whole cache at the end, by depth;
//                                           NaN where a token has no entry (--exit-kv missing)
// Throws Error as Model::check_exit does.
void trace_exits(LoadedModel& loaded, const TokenInputs& inputs, const TraceOptions& options,
                 const ExitConfig& exit, std::vector<TensorView>& results);

}  // namespace reprise
