#include "eval/compare.h"

#include <algorithm>
#include <cmath>

#include "engine/logits.h"
#include "eval/perplexity.h"

namespace reprise {
namespace {

// Sums over positions; logits of both models come in the same order.
class Tally {
 public:
  // token: what followed; negative where that is not to be counted.
  void add(std::span<const float> reference, std::span<const float> model, int32_t token) {
    REPRISE_CHECK(reference.size() == model.size());
    const double kl = kl_divergence(reference, model);
    if (!std::isfinite(kl)) fail("position {}: the logits are NaN or infinite", result_.positions);
    kl_sum_ += kl;
    result_.kl_max = std::max(result_.kl_max, kl);
    ++result_.positions;
    const auto top = [](std::span<const float> x) {
      return std::max_element(x.begin(), x.end()) - x.begin();
    };
    same_top_ += top(reference) == top(model) ? 1 : 0;
    for (size_t i = 0; i < model.size(); ++i)
      result_.largest_logit =
          std::max(result_.largest_logit, std::fabs(static_cast<double>(model[i]) - reference[i]));
    if (token < 0 || static_cast<size_t>(token) >= model.size()) return;
    reference_nll_ += negative_log_likelihood(reference, token);
    model_nll_ += negative_log_likelihood(model, token);
    ++result_.predictions;
  }

  Comparison result() {
    if (result_.positions > 0) {
      const auto n = static_cast<double>(result_.positions);
      result_.kl_mean = kl_sum_ / n;
      result_.same_top = static_cast<double>(same_top_) / n;
    }
    if (result_.predictions > 0) {
      const auto n = static_cast<double>(result_.predictions);
      result_.reference_perplexity = std::exp(reference_nll_ / n);
      result_.perplexity = std::exp(model_nll_ / n);
    }
    return result_;
  }

 private:
  Comparison result_;
  double kl_sum_ = 0, reference_nll_ = 0, model_nll_ = 0;
  int64_t same_top_ = 0;
};

void check_same_vocabulary(const LoadedModel& reference, const LoadedModel& model) {
  const int64_t a = reference.config().text.vocab, b = model.config().text.vocab;
  if (a != b)
    fail("{}: has {} logits, {} has {}; they can't be compared", model.options().model.string(), b,
         reference.options().model.string(), a);
}

// Logits [positions][vocab] of a whole prompt.
std::vector<std::vector<float>> prompt_logits(LoadedModel& loaded, const TokenInputs& inputs) {
  const TokenPrompt prompt = token_prompt(loaded, inputs);
  Session session(loaded.model(), make_plans(loaded.model()));
  std::vector<std::vector<float>> rows;
  session.prefill(prompt, [&](int64_t, const Tensor& normed) {
    const std::vector<float> logits = session.logits(normed);
    const auto vocab = static_cast<int64_t>(logits.size()) / normed.dim(0);
    for (int64_t i = 0; i < normed.dim(0); ++i)
      rows.emplace_back(logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
  });
  return rows;
}

}  // namespace

Comparison compare_on_text(LoadedModel& reference, LoadedModel& model,
                           std::span<const int32_t> tokens, int64_t ctx,
                           const std::function<void(int64_t, int64_t)>& progress) {
  check_same_vocabulary(reference, model);
  const std::optional<int32_t> bos = model.added_bos();
  const WindowLogits exact = window_logits(reference.model(), make_plans(reference.model()));
  const WindowLogits other = window_logits(model.model(), make_plans(model.model()));
  Tally tally;
  // perplexity() cuts the windows; the tally looks at what passes by.
  const WindowLogits both = [&](std::span<const int32_t> window, int64_t first,
                                const LogitsSink& sink) {
    std::vector<std::vector<float>> rows;
    exact(window, first, [&](int64_t, std::span<const float> logits) {
      rows.emplace_back(logits.begin(), logits.end());
    });
    other(window, first, [&](int64_t position, std::span<const float> logits) {
      tally.add(rows[static_cast<size_t>(position - first)], logits,
                window[static_cast<size_t>(position + 1)]);
      sink(position, logits);
    });
  };
  perplexity(tokens, ctx, bos, both, {}, [&](int64_t done, int64_t windows, double) {
    if (progress) progress(done, windows);
  });
  return tally.result();
}

Comparison compare_on_inputs(LoadedModel& reference, LoadedModel& model,
                             const TokenInputs& inputs) {
  check_same_vocabulary(reference, model);
  const auto exact = prompt_logits(reference, inputs);
  const auto other = prompt_logits(model, inputs);
  REPRISE_CHECK(exact.size() == other.size() && exact.size() == inputs.ids.size());
  Tally tally;
  for (size_t i = 0; i < exact.size(); ++i) {
    const bool last = i + 1 == exact.size();
    const int32_t next = last ? -1 : inputs.ids[i + 1];
    tally.add(exact[i], other[i], next == model.config().image_token ? -1 : next);
  }
  return tally.result();
}

}  // namespace reprise
