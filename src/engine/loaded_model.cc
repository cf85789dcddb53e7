#include "engine/loaded_model.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "base/clock.h"

namespace reprise {

std::unique_ptr<LoadedModel> LoadedModel::load(const LoadedModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_ptr<LoadedModel> loaded(new LoadedModel());
  loaded->options_ = options;
  loaded->backend_ = make_backend(options.backend, options.compute);
  loaded->model_ = Model::load(options.model, *loaded->backend_, options.load);
  loaded->find_image_token();
  loaded->load_seconds_ = seconds_since(start);
  return loaded;
}

bool LoadedModel::quantizes_activations() {
  if (options_.backend != "cpu" || options_.compute.activations != Activations::Int8) return false;
  bool found = false;
  model_->visit_tensors([&](const TensorSlot& slot) {
    found = found || (slot.use != WeightUse::Vector && is_quantized(slot.tensor->dtype()));
  });
  return found;
}

int64_t LoadedModel::context_limit() const { return reprise::context_limit(model_->config().text); }

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
