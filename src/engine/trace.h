// Intermediate results of a forward pass under the names of the golden data, without the batch
// dimension. What tests and tools compare models with.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/engine.h"
#include "engine/session.h"
#include "formats/safetensors.h"

namespace reprise {

struct TraceInputs {
  std::string where;
  std::vector<int32_t> ids;          // [n]
  std::optional<TensorView> pixels;  // pixel_values F32 [tiles, 3, H, W], normalised
  std::optional<TensorView> bytes;   // or pixel_u8 U8 [tiles, 3, H, W], before normalisation
};

// Reads `input_ids` int64 [n] or [1, n] (or `prompt`, as the recursive golden data calls it) and
// the pixels. An `attention_mask` must be all ones. Throws Error naming file and tensor.
TraceInputs read_trace_inputs(const std::filesystem::path& path);

struct TraceOptions {
  PlanOptions plan;
  int64_t steps = 0;    // greedy tokens
  int64_t chunk = 512;  // of the prompt
};

// All F32 but for decode.tokens (I64). Of the prompt, n tokens:
//   vision_out, projected           [tiles, tokens, .]      with pixels only
//   inputs_embeds                   [n, d]
//   layer.<depth>.out and whatever else the plan and the scheme show ([n, ...])
//   layer.<depth>.k, .v             [kv_heads, n, head_dim] the cache: plain k, v where the scheme
//                                   keeps more per head
//   exit.<loop>.hidden, .logits     [n, d], [n, V]          looped plans
//   final_norm, logits              [n, d], [n, V]
// With steps: decode.tokens [N] and decode.logits [N, V]; row t chose token t, so row 0 is the last
// prompt position; and decode.1.<name>, the observed values while the first generated token runs.
// What is shown more than once in a call gets ".2", ... behind its name.
std::vector<TensorView> trace(Engine& engine, const TraceInputs& inputs,
                              const TraceOptions& options);

// Mean over positions of KL(softmax(exact) || softmax(other)) of the tensor `logits`, in nats.
double trace_kl(const std::vector<TensorView>& exact, const std::vector<TensorView>& other);

// KL(softmax(p) || softmax(q)) in nats.
double kl_divergence(std::span<const float> p, std::span<const float> q);

}  // namespace reprise
