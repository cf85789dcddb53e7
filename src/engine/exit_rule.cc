#include "engine/exit_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace reprise {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

}  // namespace

ExitRule::ExitRule(const Model& model, const Plan& plan, const ExitConfig& config)
    : model_(model), config_(config), loops_(plan.loops()) {
  model.check_exit(config, plan);
}

float gate_probability(float logit) { return 1.0f / (1.0f + std::exp(-logit)); }

std::vector<double> ExitRule::scores(int loop, const Tensor& state, std::span<const float> logits,
                                     std::span<ExitMemory* const> memory) const {
  Backend& be = model_.backend();
  const auto rows = static_cast<size_t>(state.dim(0));
  REPRISE_CHECK(memory.size() == rows);
  std::vector<double> scores(rows, kNone);
  // Row r of [rows, n] numbers.
  const auto row = [rows](std::span<const float> values, size_t r) {
    const size_t n = values.size() / rows;
    return values.subspan(r * n, n);
  };
  switch (config_.kind) {
    case ExitKind::None:
      break;
    case ExitKind::Confidence:
    case ExitKind::Entropy:
      REPRISE_CHECK(!logits.empty());
      for (size_t r = 0; r < rows; ++r)
        scores[r] = config_.kind == ExitKind::Entropy ? entropy(row(logits, r))
                                                      : confidence(row(logits, r));
      break;
    case ExitKind::Similarity: {
      const std::vector<float> now = be.to_host(state);
      for (size_t r = 0; r < rows; ++r) {
        std::vector<float>& before = memory[r]->state;
        if (!before.empty()) scores[r] = cosine(row(now, r), before);
        before.assign(row(now, r).begin(), row(now, r).end());
      }
      break;
    }
    case ExitKind::Gate: {
      const std::vector<float> gate = be.to_host(model_.exit_gate(state));
      for (size_t r = 0; r < rows; ++r)
        scores[r] = 1 / (1 + std::exp(-static_cast<double>(gate[r])));
      break;
    }
    case ExitKind::Cdf: {
      const std::vector<float> gate = be.to_host(model_.exit_gate(state));
      for (size_t r = 0; r < rows; ++r) {
        memory[r]->odds.next(gate_probability(gate[r]), loop + 1 == loops_);
        scores[r] = memory[r]->odds.cdf();
      }
      break;
    }
    case ExitKind::Step:
      std::fill(scores.begin(), scores.end(), loop);
      break;
    case ExitKind::Weighted:
      break;
    case ExitKind::Depth:
      std::fill(scores.begin(), scores.end(), loop + 1);
      break;
  }
  return scores;
}

double confidence(std::span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return 1 / sum;
}

double entropy(std::span<const float> logits) {
  // -sum p log p with p = e^(x - top) / sum: log sum - (sum of e^(x - top) (x - top)) / sum.
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0, weighted = 0;
  for (const float x : logits) {
    const double below = static_cast<double>(x) - top;
    const double e = std::exp(below);
    sum += e;
    if (e > 0) weighted += e * below;  // -infinity has no part in it
  }
  return std::max(0.0, std::log(sum) - weighted / sum);
}

double cosine(std::span<const float> a, std::span<const float> b) {
  REPRISE_CHECK(a.size() == b.size());
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return aa > 0 && bb > 0 ? ab / (std::sqrt(aa) * std::sqrt(bb)) : 0;
}

}  // namespace reprise
