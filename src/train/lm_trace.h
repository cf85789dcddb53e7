// The losses of language modelling, each alone, with their gradients, of tokens from a file: what
// training minimises (objectives/lm_terms.h), to be compared with another implementation.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/loaded_model.h"

namespace reprise {

struct LmTraceOptions {
  std::filesystem::path teacher;  // a model; empty: the losses that need one are left out
  std::string loss;               // whose gradients are given; empty: none
};

// Whether the file holds `tokens`, and neither labels nor input_ids.
bool has_lm_tokens(const std::filesystem::path& file);

// Inputs: tokens int64 [rows, context + 1]; the first `context` of a row go in, the last are
// predicted. Results, F32: loss.<name> and gradnorm.<name> [1] (L2 norm over all weights) for
//   ce, and with a teacher forward_kl, reverse_kl, jsd, tvd;
//   of a looped model exit.<i>.ce and exit.<i>.kd of all loops but the last, weighted, weighted_kd,
//   aggressive, aggressive_kd (alpha 0.1);
// and grad.<tensor> of options.loss. Throws Error naming file and tensor, and listing the names
// where options.loss is none of them.
std::vector<TensorView> trace_lm_losses(LoadedModel& loaded, const std::filesystem::path& file,
                                        const LmTraceOptions& options);

}  // namespace reprise
