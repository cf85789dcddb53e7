#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "engine/logits.h"

namespace reprise {

namespace {

constexpr int64_t kLogitRows = 64;  // positions whose logits are held at a time

// Of a token of the text; Error where there is no such thing.
double checked_likelihood(std::span<const float> logits, int32_t token, int64_t position) {
  const double nll = token_nll(logits, token);
  if (!std::isfinite(nll)) fail("perplexity: the logits of position {} are NaN", position);
  return nll;
}

}  // namespace

double token_nll(std::span<const float> logits, int32_t token) {
  if (token < 0 || static_cast<size_t>(token) >= logits.size()) {
    fail("perplexity: token {} can't be predicted, the model has {} logits", token, logits.size());
  }
  return negative_log_likelihood(logits, token);
}

std::vector<std::vector<int32_t>> perplexity_windows(std::span<const int32_t> tokens, int64_t ctx,
                                                     std::optional<int32_t> bos) {
  if (ctx < 4) fail("perplexity: expected a context of 4 tokens or more, found {}", ctx);
  const int64_t windows = static_cast<int64_t>(tokens.size()) / ctx;
  if (windows == 0) {
    fail("perplexity: the text has {} tokens, less than one context of {}", tokens.size(), ctx);
  }
  std::vector<std::vector<int32_t>> all;
  for (int64_t w = 0; w < windows; ++w) {
    const auto part = tokens.subspan(static_cast<size_t>(w * ctx), static_cast<size_t>(ctx));
    all.emplace_back(part.begin(), part.end());
    if (bos) all.back()[0] = *bos;
  }
  return all;
}

PerplexityResult perplexity(std::span<const int32_t> tokens, int64_t ctx,
                            std::optional<int32_t> bos, const WindowLogits& model,
                            const WindowLogits& reference, const PerplexityProgress& progress) {
  const auto cut = perplexity_windows(tokens, ctx, bos);
  const auto windows = static_cast<int64_t>(cut.size());
  const int64_t first = ctx / 2;
  PerplexityResult result;
  double nll_sum = 0, nll_squares = 0, kl_sum = 0;
  for (int64_t w = 0; w < windows; ++w) {
    const std::vector<int32_t>& window = cut[static_cast<size_t>(w)];
    std::vector<std::vector<float>> exact;  // the reference's logits, by position - first
    if (reference) {
      reference(window, first, [&](int64_t, std::span<const float> logits) {
        exact.emplace_back(logits.begin(), logits.end());
      });
    }
    model(window, first, [&](int64_t position, std::span<const float> logits) {
      const double nll =
          checked_likelihood(logits, window[static_cast<size_t>(position + 1)], w * ctx + position);
      nll_sum += nll;
      nll_squares += nll * nll;
      ++result.tokens;
      if (reference) kl_sum += kl_divergence(exact[static_cast<size_t>(position - first)], logits);
    });
    if (progress) {
      progress(w + 1, windows, std::exp(nll_sum / static_cast<double>(result.tokens)));
    }
  }
  const auto count = static_cast<double>(result.tokens);
  result.windows = windows;
  result.mean_nll = nll_sum / count;
  result.perplexity = std::exp(result.mean_nll);
  const double variance = nll_squares / count - result.mean_nll * result.mean_nll;
  result.standard_error =
      count > 1 ? result.perplexity * std::sqrt(std::max(0.0, variance) / (count - 1)) : 0;
  result.kl_divergence = kl_sum / count;
  return result;
}

void each_logits(Backend& be, const Tensor& normed, int64_t begin, int64_t end,
                 const std::function<std::vector<float>(const Tensor& rows)>& head,
                 const LogitsSink& sink) {
  for (int64_t at = begin; at < end; at += kLogitRows) {
    const int64_t stop = std::min(end, at + kLogitRows);
    const std::vector<float> logits = head(be.slice(normed, 0, at, stop));
    const size_t vocab = logits.size() / static_cast<size_t>(stop - at);
    for (int64_t i = at; i < stop; ++i)
      sink(i, std::span(logits).subspan(static_cast<size_t>(i - at) * vocab, vocab));
  }
}

WindowLogits window_logits(Model& model, std::shared_ptr<const Plans> plans, int64_t chunk,
                           const ExitConfig& exit) {
  return [&model, plans, chunk, exit](std::span<const int32_t> window, int64_t first,
                                      const LogitsSink& sink) {
    TokenPrompt prompt;
    prompt.ids.assign(window.begin(), window.end());
    Session session(model, plans, chunk, exit);
    const int64_t last = static_cast<int64_t>(window.size()) - 1;  // predicts nothing that counts
    session.prefill(prompt, [&](int64_t begin, const Tensor& normed) {
      const int64_t stop = std::min(last, begin + normed.dim(0));
      each_logits(
          model.backend(), normed, std::max(first, begin) - begin, stop - begin,
          [&](const Tensor& rows) { return session.logits(rows); },
          [&](int64_t row, std::span<const float> logits) { sink(begin + row, logits); });
    });
  };
}

}  // namespace reprise
