// How far a model's predictions are from another's: what quantization costs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/loaded_model.h"
#include "engine/token_inputs.h"

namespace reprise {

struct Comparison {
  int64_t positions = 0;  // whose logits were compared
  double kl_mean = 0;     // KL(reference || model) of the next token's distribution, in nats
  double kl_max = 0;
  double same_top = 0;              // share of positions where both think the same token likeliest
  double largest_logit = 0;         // largest |difference| of a logit
  int64_t predictions = 0;          // positions whose next token is known: what perplexity is over
  double reference_perplexity = 0;  // exp(mean of -log p)
  double perplexity = 0;
};

// A text, cut into windows and counted as `reprise eval --perplexity` does (perplexity.h).
Comparison compare_on_text(LoadedModel& reference, LoadedModel& model, std::span<const int32_t> tokens,
                           int64_t ctx, const std::function<void(int64_t, int64_t)>& progress = {});

// Token ids (and pixels) from a file, as one prompt; every position counts. Image placeholders are
// no predictions. Throws Error naming the file.
Comparison compare_on_inputs(LoadedModel& reference, LoadedModel& model, const TokenInputs& inputs);

}  // namespace reprise
