#include "model/save.h"

#include <map>

#include "base/error.h"
#include "base/json.h"
#include "formats/gguf_writer.h"
#include "formats/model_source.h"

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
  Json config = *model.config().source;
  if (!options.chat_format.empty()) config["reprise"]["chat_format"] = options.chat_format;
  // Those of generation_config.json too, which the file doesn't carry.
  if (const auto& ends = model.config().eos_tokens; !ends.empty())
    config["eos_token_id"] = ends.size() == 1 ? Json(ends[0]) : Json(ends);
  metadata.set(kConfigKey, config.dump());
  if (!model.config().plan.empty()) metadata.set(kPlanKey, model.config().plan);
  for (const auto& [key, value] : options.metadata.entries()) metadata.set(key, value);
  std::vector<OutputTensor> tensors;  // without data: one at a time is brought to the host
  std::map<std::string, Tensor> weights;
  model.visit_tensors([&](const TensorSlot& slot) {
    TensorView view;
    view.name = slot.name;
    view.shape = slot.shape;
    const bool fits = slot.shape.back() % block_values(options.type) == 0;
    tensors.push_back({view, may_be_smaller(slot) && fits ? options.type : DType::F32});
    weights.emplace(slot.name, *slot.tensor);
  });
  write_gguf(path, metadata, tensors, [&](const OutputTensor& tensor, const ByteSink& sink) {
    const std::vector<float> values = model.backend().to_host(weights.at(tensor.source.name));
    write_as(make_view(tensor.source.name, tensor.source.shape, values), tensor.type, sink);
  });
}

}  // namespace reprise
