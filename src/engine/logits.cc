#include "engine/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace reprise {
namespace {

// The first tensor of the model's files that isn't finite, as a part of a message.
std::string culprit(const Model& model) {
  const WeightFile& weights = model.source().weights();
  if (weights.tensors().empty()) return "";  // made in memory
  for (const TensorView& tensor : weights.tensors()) {
    if (!is_float(tensor.type) && !is_quantized(tensor.type)) continue;
    const std::vector<float> values = to_floats(tensor);
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
      return fmt::format("; {}: tensor '{}' holds NaN or infinity",
                         tensor.file ? tensor.file->path().string() : weights.where(), tensor.name);
  }
  return fmt::format("; the weights in {} are finite, so sums went beyond float32",
                     weights.where());
}

double log_sum_exp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float value : x) sum += std::exp(value - top);
  return top + std::log(sum);
}

}  // namespace

void check_logits(const Model& model, std::span<const float> logits, const std::string& what) {
  bool bad = false;  // without a branch, so that it is vectorized: this runs for every token
  for (const float x : logits) bad |= !(x <= std::numeric_limits<float>::max());
  if (bad) fail("{}: logits are NaN or infinite{}", what, culprit(model));
}

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  return log_sum_exp(logits) - logits[static_cast<size_t>(token)];
}

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  REPRISE_CHECK(p.size() == q.size() && !p.empty());
  const double p_log = log_sum_exp(p), q_log = log_sum_exp(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_log;
    kl += std::exp(log_p) * (log_p - (q[i] - q_log));
  }
  return kl;
}

}  // namespace reprise
