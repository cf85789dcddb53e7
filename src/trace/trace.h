// Intermediate results of a forward pass under the names of the golden data, without the batch
// dimension. What tests and tools compare models with.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/session.h"
#include "engine/token_inputs.h"
#include "formats/safetensors.h"

namespace reprise {

struct TraceOptions {
  PlanOptions plan;
  int64_t steps = 0;    // greedy tokens
  int64_t chunk = 512;  // of the prompt
  // Whose loop's logits count, of mode Select or where the model's own code selects: generated tokens
  // then leave loops out in mode Skip. Others run all loops, whatever is said here.
  ExitConfig exit;
};

// Whether one of these options of the model says how initial states are drawn.
bool draws_states(const Model& model, const PlanOptions& options);

// All F32 but for decode.tokens and exit steps (I64). Of the prompt, n tokens:
//   vision_out, projected           [tiles, tokens, .]      with pixels only
//   inputs_embeds                   [n, d]
//   layer.<depth>.out and whatever else the plan and the scheme show ([n, ...])
//   layer.<depth>.k, .v             [kv_heads, n, head_dim] the cache: plain k, v where the scheme
//                                   keeps more per head
//   exit.<loop>.hidden, .logits     [n, d], [n, V]          looped plans, with
//   loop.<loop>.norm                [n, d]                  what those logits are made of: the final
//                                                           norm there, in some also what goes on
//   exit.lambda, exit.p, exit.cdf   [n, loops]              models with an exit gate: its probability,
//                                                           that to leave there, the running sum
//   exit_step                       [n] (I64)               with an exit rule: the loop, from 0
//   final_norm, logits              [n, d], [n, V]          of that loop
// With steps: decode.tokens [N] and decode.logits [N, V]; row t chose token t, so row 0 is the last
// prompt position; decode.exit_step [N] and, with a gate and all loops run, decode.cdf [N, loops] in
// the same order and decode.exit.cdf [N - 1, loops] of the generated tokens that were run; and
// decode.1.<name>, the observed values while the first generated token runs. Where the prompt leaves
// as generated tokens do, decode.steps [N] (I64), loops run, and exit.values [N, loops], the rule's
// scores, -1 where there was none. Looped plans at the end:
//   kv.<slot>.k, .v                 [kv_heads, n + N - 1, head_dim]  slots: Scheme::kv_slot
// What is shown more than once in a call gets ".2", ... behind its name.
std::vector<TensorView> trace(LoadedModel& loaded, const TokenInputs& inputs,
                              const TraceOptions& options);

// What a KV row holds: plain k, v where the scheme keeps more per head.
struct KvEntries {
  int row = 0;                     // in the plan
  int block = 0;                   // whose visit writes it
  std::vector<int32_t> positions;  // [n]
  Shape shape;                     // [kv_heads, n, head_dim]
  std::vector<float> k, v;         // of that shape
};
// The KV rows that outlive the prompt, by the depth of the visit that writes them: the number of
// such rows before it.
// Rows without entries (of loops that every token has left out) are left out.
std::vector<KvEntries> kv_by_depth(Model& model, const Plan& plan, const Sequence& sequence);

// Mean over positions of KL(softmax(exact) || softmax(other)) of the tensor `logits`, in nats.
double trace_kl(const std::vector<TensorView>& exact, const std::vector<TensorView>& other);

}  // namespace reprise
