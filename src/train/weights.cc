#include "train/weights.h"

#include <algorithm>

#include "base/error.h"
#include "base/pattern.h"
#include "train/fingerprint.h"

namespace reprise {
namespace {

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::ranges::any_of(
      patterns, [&](const std::string& pattern) { return matches_pattern(pattern, name); });
}

void check_patterns(const Recipe& recipe, const std::vector<TrainWeight>& weights) {
  for (const auto* patterns : {&recipe.freeze, &recipe.train_only})
    for (const std::string& pattern : *patterns)
      if (std::ranges::none_of(weights, [&](const TrainWeight& weight) {
            return matches_pattern(pattern, weight.name);
          }))
        fail("{}: pattern '{}' matches no tensor of the model", recipe.path.string(), pattern);
}

void add_adapters(const Recipe& recipe, Model& model, TrainBackend& backend,
                  const std::vector<std::string>& trained, TrainedWeights& weights) {
  weights.adapters = attach_adapters(recipe, model, backend);
  for (const TrainedAdapter& adapter : weights.adapters) {
    if (std::ranges::find(trained, adapter.target + ".weight") != trained.end())
      fail(
          "{}: key 'lora.targets': tensor '{}.weight' is trained itself; freeze it (run.freeze, "
          "run.train_only) or leave it out",
          recipe.path.string(), adapter.target);
    for (const auto& [part, tensor] : {std::pair{".lora_A.weight", adapter.pair.a},
                                       std::pair{".lora_B.weight", adapter.pair.b}}) {
      backend.set_trainable(tensor, true);
      weights.all.push_back({adapter.target + part, tensor, /*decays=*/true, /*trained=*/true});
      weights.trainable.push_back(tensor);
    }
  }
}

}  // namespace

int64_t TrainedWeights::parameters() const {
  int64_t count = 0;
  for (const Tensor& tensor : trainable) count += tensor.size();
  return count;
}

TrainedWeights choose_weights(const Recipe& recipe, Model& model, TrainBackend& backend) {
  TrainedWeights weights;
  model.visit_tensors([&](const TensorSlot& slot) {
    weights.all.push_back({slot.name, *slot.tensor, slot.use != WeightUse::Vector});
  });
  check_patterns(recipe, weights.all);
  uint64_t frozen = 0;
  std::vector<std::string> trained;
  for (TrainWeight& weight : weights.all) {
    const bool wanted = recipe.train_only.empty() || matches_any(recipe.train_only, weight.name);
    weight.trained = wanted && !matches_any(recipe.freeze, weight.name);
    backend.set_trainable(weight.tensor, weight.trained);
    if (weight.trained) {
      weights.trainable.push_back(weight.tensor);
      trained.push_back(weight.name);
    } else {
      frozen ^= tensor_fingerprint(weight.name, backend.to_host(weight.tensor));
    }
  }
  weights.frozen = fmt::format("{:016x}", frozen);
  if (weights.trainable.empty() && !recipe.lora)
    fail("{}: freeze and train_only leave nothing to train", recipe.path.string());
  backend.set_adapter_dropout(recipe.adapter_dropout);
  weights.quantized = quantize_base(recipe, model, backend, trained);
  add_adapters(recipe, model, backend, trained, weights);
  return weights;
}

}  // namespace reprise
