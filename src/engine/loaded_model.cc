#include "engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>

namespace reprise {

std::unique_ptr<LoadedModel> LoadedModel::load(const LoadedModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_ptr<LoadedModel> engine(new LoadedModel());
  engine->options_ = options;
  engine->backend_ = make_backend(options.backend, options.compute);
  engine->model_ = Model::load(options.model, *engine->backend_, options.load);
  engine->find_image_token();
  engine->load_seconds_ =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return engine;
}

bool LoadedModel::quantizes_activations() {
  if (options_.backend != "cpu" || options_.compute.activations != Activations::Int8) return false;
  bool found = false;
  model_->visit_tensors([&](const TensorSlot& slot) {
    found = found || (slot.use != WeightUse::Vector && is_quantized(slot.tensor->dtype()));
  });
  return found;
}

int64_t LoadedModel::context_limit() const {
  const TextConfig& text = model_->config().text;
  // Dynamic rope stretches with the request; nothing in the model bounds it.
  const bool stretches = std::ranges::any_of(
      text.ropes, [](const RopeConfig& rope) { return rope.kind == RopeConfig::Kind::Dynamic; });
  return stretches ? 0 : text.max_position;
}

LoadedModelOptions exact_activations(LoadedModelOptions options) {
  options.compute.activations = Activations::F32;
  return options;
}

int64_t peak_rss() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::atoll(line.c_str() + 6) * 1024;  // given in kB
  }
  return 0;
}

}  // namespace reprise
