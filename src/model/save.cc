#include "model/save.h"

#include "base/error.h"

namespace reprise {
namespace {

bool may_be_smaller(const TensorSlot& slot) {
  return slot.use != WeightUse::Vector &&
         (slot.role == Role::Embedding || slot.role == Role::Head || slot.role == Role::Attention ||
          slot.role == Role::Mlp);
}

}  // namespace

void save_gguf(Model& model, const std::filesystem::path& path, const SaveOptions& options) {
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("reprise"));
  metadata.set("general.name", options.name);
  Json config = model.config().source;
  if (!options.chat_format.empty()) config["reprise"]["chat_format"] = options.chat_format;
  metadata.set("reprise.config", config.dump());
  for (const auto& [key, value] : options.metadata.entries()) metadata.set(key, value);
  std::vector<GgufTensor> tensors;
  model.visit_tensors([&](const TensorSlot& slot) {
    const std::vector<float> values = model.backend().to_host(*slot.tensor);
    const bool fits = slot.shape.back() % block_values(options.type) == 0;
    tensors.push_back({make_view(slot.name, slot.shape, values),
                       may_be_smaller(slot) && fits ? options.type : DType::F32});
  });
  write_gguf(path, metadata, tensors);
}

}  // namespace reprise
