// Perplexity as llama.cpp's tool counts it, so that figures can be compared: the tokens of a whole
// file are cut into windows of `ctx` tokens that don't overlap (a rest is left out); where the
// model adds a beginning-of-text token, each window's first token is replaced by it; of each window
// only the predictions of its tokens ctx / 2 + 1 .. ctx - 1 count.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "engine/loaded_model.h"
#include "engine/session.h"

namespace reprise {

struct PerplexityResult {
  double perplexity = 0;      // exp(mean of -log p)
  double standard_error = 0;  // of the perplexity: perplexity * error of the mean
  double mean_nll = 0;        // nats per token
  int64_t windows = 0;
  int64_t tokens = 0;        // predictions counted
  double kl_divergence = 0;  // mean KL(reference || model) over the same positions, in nats
};

// Gives the logits [vocab] of positions first .. window.size() - 2, in order, to the sink.
using LogitsSink = std::function<void(int64_t position, std::span<const float> logits)>;
using WindowLogits =
    std::function<void(std::span<const int32_t> window, int64_t first, const LogitsSink& sink)>;
// Called after each window.
using PerplexityProgress = std::function<void(int64_t done, int64_t windows, double perplexity)>;

// The windows that a text is cut into; bos replaces the first token of each. Throws Error when
// ctx < 4 or the tokens don't fill a window.
std::vector<std::vector<int32_t>> perplexity_windows(std::span<const int32_t> tokens, int64_t ctx,
                                                     std::optional<int32_t> bos);

// Logits of rows [begin, end) of `normed`, what the head reads, by `head` ([rows, d] -> [rows, vocab]
// on the host): a few rows at a time, since a row's logits are long. The sink gets row numbers.
void each_logits(Backend& be, const Tensor& normed, int64_t begin, int64_t end,
                 const std::function<std::vector<float>(const Tensor& rows)>& head,
                 const LogitsSink& sink);

// -log p of a token of the text in nats; NaN where the logits are. Throws Error for one that the
// model has no logit for.
double token_nll(std::span<const float> logits, int32_t token);

// bos: replaces the first token of each window. reference: where given, its logits are compared
// with the model's. Throws Error when ctx < 4, the tokens don't fill a window, or a logit is NaN.
PerplexityResult perplexity(std::span<const int32_t> tokens, int64_t ctx,
                            std::optional<int32_t> bos, const WindowLogits& model,
                            const WindowLogits& reference = {},
                            const PerplexityProgress& progress = {});

// Logits of a model run on the whole window as one prompt; of the loops that `exit` chooses where a
// prompt's positions have exits (Session).
WindowLogits window_logits(Model& model, std::shared_ptr<const Plans> plans, int64_t chunk = 512,
                           const ExitConfig& exit = {});

}  // namespace reprise
