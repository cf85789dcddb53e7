#include "train/loss_and_gradients.h"

#include "base/error.h"
#include "engine/logits.h"

namespace reprise {

namespace {

// What the head reads, [n, d].
Tensor head_input(const Model& model, const Plan& plan, const Rows& rows, const Tensor& embeds) {
  const bool mean = model.scheme().selects() && plan.loops() > 0;
  const Model::Results results = model.run(plan, rows, embeds, nullptr, /*exits=*/mean);
  return mean ? model.expected_normed(results.exits) : model.final_norm(results.state);
}

// Sum of -log softmax(logits)[label] over rows with a label; logits [rows, vocabulary].
double cross_entropy_sum(std::span<const float> logits, std::span<const int32_t> labels) {
  const size_t vocab = logits.size() / labels.size();
  double sum = 0;
  for (size_t r = 0; r < labels.size(); ++r) {
    if (labels[r] < 0) continue;
    sum += negative_log_likelihood(logits.subspan(r * vocab, vocab), labels[r]);
  }
  return sum;
}

}  // namespace

LossAndGradients loss_and_gradients(Model& model, Backend& backend, const Tensor& embeds,
                                    std::span<const int64_t> labels,
                                    std::vector<uint8_t> is_image) {
  const int64_t n = embeds.dim(0);
  std::vector<std::pair<std::string, Tensor>> weights;
  model.visit_tensors([&](const TensorSlot& slot) {
    weights.push_back({slot.name, *slot.tensor});
  });
  Rows rows;
  rows.segments.push_back({nullptr, 0, n, n, -1});
  for (int64_t i = 0; i < n; ++i) rows.positions.push_back(static_cast<int32_t>(i));
  rows.is_image = std::move(is_image);
  std::vector<int32_t> shifted(static_cast<size_t>(n), -100);
  int64_t counted = 0;
  for (size_t i = 1; i < labels.size(); ++i) {
    shifted[i - 1] = static_cast<int32_t>(labels[i]);
    counted += labels[i] != -100;
  }
  if (counted == 0) fail("labels: none of them counts, all are -100");
  const Plan plan = n > 1 ? model.prefill_plan() : model.decode_plan();
  const Tensor logits = model.logits(head_input(model, plan, rows, embeds));
  LossAndGradients result;
  result.logits = backend.to_host(logits);
  auto* train = dynamic_cast<TrainBackend*>(&backend);
  if (!train) {
    result.loss = cross_entropy_sum(result.logits, shifted) / static_cast<double>(counted);
    return result;
  }
  const Tensor sum = train->cross_entropy_sum(logits, shifted);
  const Tensor loss = train->scale(sum, 1.0f / static_cast<float>(counted));
  train->backward(loss);
  result.loss = train->to_host(loss)[0];
  for (const auto& [name, tensor] : weights)
    result.gradients.push_back({name, train->gradient(tensor)});
  return result;
}

}  // namespace reprise
