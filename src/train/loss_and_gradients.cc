#include "train/loss_and_gradients.h"

#include "base/error.h"

namespace reprise {

LossAndGradients loss_and_gradients(Model& model, TrainBackend& backend, const Tensor& embeds,
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
  const Tensor state = model.forward(plan, rows, embeds);
  const Tensor sum = backend.cross_entropy_sum(model.logits(model.final_norm(state)), shifted);
  const Tensor loss = backend.scale(sum, 1.0f / static_cast<float>(counted));
  backend.backward(loss);
  LossAndGradients result;
  result.loss = backend.to_host(loss)[0];
  for (const auto& [name, tensor] : weights)
    result.gradients.push_back({name, backend.gradient(tensor)});
  return result;
}

}  // namespace reprise
