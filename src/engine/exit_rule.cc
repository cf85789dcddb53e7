#include "engine/exit_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace reprise {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr double kMinP = 0.1;  // of the largest probability

// log p of each, where MinPKl cuts off what is less than a tenth of the largest p and puts 1 / n
// there before it makes the sum 1 again.
std::vector<float> log_probabilities(std::span<const float> logits, bool min_p) {
  const float top = *std::max_element(logits.begin(), logits.end());
  const auto n = static_cast<double>(logits.size());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  std::vector<float> log_p;
  log_p.reserve(logits.size());
  if (!min_p) {
    for (const float x : logits)
      log_p.push_back(static_cast<float>(static_cast<double>(x) - top - std::log(sum)));
    return log_p;
  }
  std::vector<double> p;
  double kept = 0;
  for (const float x : logits) {
    const double e = std::exp(static_cast<double>(x) - top);
    p.push_back(e < kMinP ? 1 / n : e / sum);
    kept += p.back();
  }
  for (const double one : p) log_p.push_back(static_cast<float>(std::log(one / kept)));
  return log_p;
}

// Of kinds that compare the answers of two loops.
double answer_change(ExitKind kind, std::span<const float> logits, ExitMemory& memory) {
  if (kind == ExitKind::EntropyDiff) {
    const double now = entropy(logits);
    return std::abs(now - std::exchange(memory.entropy, now));
  }
  if (kind == ExitKind::ArgmaxStability) {
    const int64_t top = std::max_element(logits.begin(), logits.end()) - logits.begin();
    memory.stable = top == memory.top ? memory.stable + 1 : 0;
    memory.top = top;
    return static_cast<double>(memory.stable);
  }
  std::vector<float> now = log_probabilities(logits, kind == ExitKind::MinPKl);
  const double uniform = -std::log(static_cast<double>(now.size()));
  double kl = 0;
  for (size_t i = 0; i < now.size(); ++i) {
    const double before = memory.log_probs.empty() ? uniform : memory.log_probs[i];
    const double p = std::exp(before);
    if (p > 0) kl += p * (before - now[i]);
  }
  memory.log_probs = std::move(now);
  return kl;
}

// Of kinds that compare the states of two loops: the mean over a token's rows [n, d].
double state_change(ExitKind kind, std::span<const float> now, std::span<const float> before,
                    size_t d) {
  double sum = 0;
  for (size_t at = 0; at < now.size(); at += d) {
    double moved = 0, length = 0, length_before = 0, product = 0;
    for (size_t i = at; i < at + d; ++i) {
      const double x = now[i], y = before[i];
      moved += (x - y) * (x - y);
      length += x * x;
      length_before += y * y;
      product += x * y;
    }
    // Without a direction there is no cosine: NaN.
    sum += kind == ExitKind::LatentDiff
               ? std::sqrt(moved) / std::sqrt(length)
               : 1 - product / std::sqrt(length) / std::sqrt(length_before);
  }
  return sum / static_cast<double>(now.size() / d);
}

}  // namespace

bool ExitRule::leaves(double score) const {
  switch (config_.kind) {
    case ExitKind::Entropy:
      return score <= config_.threshold;
    case ExitKind::Kl:
    case ExitKind::MinPKl:
    case ExitKind::EntropyDiff:
    case ExitKind::LatentDiff:
    case ExitKind::Cosine:
      return score < config_.threshold;
    default:
      return score >= config_.threshold;
  }
}

ExitRule::ExitRule(const Model& model, const Plan& plan, const ExitConfig& config)
    : model_(model), config_(config), loops_(plan.loops()) {
  model.check_exit(config, plan);
}

float gate_probability(float logit) { return 1.0f / (1.0f + std::exp(-logit)); }

std::vector<double> ExitRule::scores(int loop, const Tensor& state, std::span<const float> logits,
                                     std::span<ExitMemory* const> memory,
                                     std::span<const int64_t> of_token) const {
  Backend& be = model_.backend();
  const size_t rows = memory.size();
  REPRISE_CHECK(static_cast<int64_t>(rows) == state.dim(0) ||
                (reads_all_rows() && of_token.size() == rows));
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
    case ExitKind::Kl:
    case ExitKind::MinPKl:
    case ExitKind::EntropyDiff:
    case ExitKind::ArgmaxStability:
      for (size_t r = 0; r < rows; ++r)
        scores[r] = answer_change(config_.kind, row(logits, r), *memory[r]);
      break;
    case ExitKind::LatentDiff:
    case ExitKind::Cosine: {
      const std::vector<float> now = be.to_host(state);
      const auto d = static_cast<size_t>(state.dim(1));
      size_t at = 0;
      for (size_t r = 0; r < rows; ++r) {
        const size_t n = of_token.empty() ? 1 : static_cast<size_t>(of_token[r]);
        const auto own = std::span(now).subspan(at, n * d);
        at += n * d;
        std::vector<float>& before = memory[r]->state;
        if (before.size() == own.size()) scores[r] = state_change(config_.kind, own, before, d);
        before.assign(own.begin(), own.end());
      }
      break;
    }
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
