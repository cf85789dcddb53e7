#include "train/adapters/adapters.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pattern.h"
#include "base/rng.h"
#include "formats/safetensors.h"

namespace reprise {
namespace {

constexpr const char* kA = ".lora_A.weight";
constexpr const char* kB = ".lora_B.weight";

bool can_be_target(const TensorSlot& slot) {
  return slot.use == WeightUse::Matrix &&
         (slot.role == Role::Attention || slot.role == Role::Mlp || slot.role == Role::Vision ||
          slot.role == Role::Projector || slot.role == Role::Head);
}

// Matrices that a pattern matches, in the model's order.
std::vector<TensorSlot> targets_of(const std::string& key, const Recipe& recipe, Model& model,
                                   const std::vector<std::string>& patterns) {
  std::vector<TensorSlot> found;
  std::vector<bool> used(patterns.size());
  model.visit_tensors([&](const TensorSlot& slot) {
    if (!can_be_target(slot)) return;
    bool wanted = false;
    for (size_t i = 0; i < patterns.size(); ++i)
      if (matches_pattern(patterns[i], slot.name)) wanted = used[i] = true;
    if (wanted) found.push_back(slot);
  });
  for (size_t i = 0; i < patterns.size(); ++i)
    if (!used[i])
      fail("{}: key '{}': pattern '{}' matches no matrix of the model", recipe.path.string(), key,
           patterns[i]);
  return found;
}

Tensor bind_matrix(Backend& backend, const std::vector<float>& values, Shape shape) {
  HostTensor source;
  source.shape = std::move(shape);
  source.bytes = std::as_bytes(std::span(values));
  return backend.bind(source, WeightUse::Matrix);
}

std::vector<float> uniform_values(int64_t count, double most, uint64_t seed, uint64_t stream) {
  const Philox random(seed, stream);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(most * (2.0 * random.uniform(i) - 1.0));
  return values;
}

std::vector<float> stored(const WeightFile& file, const std::string& name, const Shape& shape) {
  const TensorView& view = file.get(name);
  if (view.shape != shape)
    fail("{}: tensor '{}' has shape {}, expected {}", file.where(), name, shape_string(view.shape),
         shape_string(shape));
  return to_floats(view);
}

LowBitKind low_bit_kind(const QuantizeRecipe& quantize) {
  if (quantize.type == "int8") return LowBitKind::Int8;
  return quantize.double_quantization ? LowBitKind::Nf4Double : LowBitKind::Nf4;
}

}  // namespace

std::vector<TrainedAdapter> attach_adapters(const Recipe& recipe, Model& model,
                                            TrainBackend& backend) {
  std::vector<TrainedAdapter> adapters;
  if (!recipe.lora) return adapters;
  const LoraRecipe& lora = *recipe.lora;
  WeightFile file;
  if (!lora.from.empty()) file = open_safetensors(lora.from).weights;
  uint64_t stream = 0x6c6f'7261'0000'0000u;  // "lora"
  for (const TensorSlot& slot : targets_of("lora.targets", recipe, model, lora.targets)) {
    const int64_t out = slot.tensor->dim(0), in = slot.tensor->dim(1);
    TrainedAdapter adapter;
    adapter.target = slot.name.substr(0, slot.name.rfind('.'));
    adapter.weight = *slot.tensor;
    const Shape a{lora.rank, in}, b{out, lora.rank};
    const double most = 1 / std::sqrt(static_cast<double>(in));
    const std::vector<float> a_values =
        lora.from.empty() ? uniform_values(num_elements(a), most, recipe.seed, stream++)
                          : stored(file, adapter.target + kA, a);
    const std::vector<float> b_values =
        lora.from.empty() ? std::vector<float>(static_cast<size_t>(num_elements(b)))
                          : stored(file, adapter.target + kB, b);
    adapter.pair.a = bind_matrix(backend, a_values, a);
    adapter.pair.b = bind_matrix(backend, b_values, b);
    adapter.pair.scale = static_cast<float>(lora.alpha / static_cast<double>(lora.rank));
    backend.attach_adapter(adapter.weight, adapter.pair, lora.dropout);
    adapters.push_back(std::move(adapter));
  }
  return adapters;
}

std::vector<QuantizedTensor> quantize_base(const Recipe& recipe, Model& model,
                                           TrainBackend& backend,
                                           const std::vector<std::string>& trained) {
  std::vector<QuantizedTensor> tensors;
  if (!recipe.quantize) return tensors;
  const QuantizeRecipe& quantize = *recipe.quantize;
  for (const TensorSlot& slot : targets_of("quantize.targets", recipe, model, quantize.targets)) {
    if (std::find(trained.begin(), trained.end(), slot.name) != trained.end())
      fail(
          "{}: key 'quantize.targets': tensor '{}' is trained itself, but weights in few bits stay "
          "as they are; freeze it (run.freeze, run.train_only) and train an adapter on it (lora)",
          recipe.path.string(), slot.name);
    tensors.push_back(
        {slot.name, slot.shape, backend.quantize_weight(*slot.tensor, low_bit_kind(quantize))});
  }
  return tensors;
}

void write_quantization_log(const std::filesystem::path& path, const Recipe& recipe,
                            const std::vector<QuantizedTensor>& tensors) {
  std::string text;
  for (const QuantizedTensor& tensor : tensors)
    text += Json({{"tensor", tensor.name},
                  {"shape", tensor.shape},
                  {"type", recipe.quantize->type},
                  {"relative_rms", tensor.error.relative_rms},
                  {"largest", tensor.error.largest}})
                .dump() +
            "\n";
  write_file_atomically(path, text);
}

void save_adapters(const std::filesystem::path& path, const Recipe& recipe, Backend& backend,
                   const std::vector<TrainedAdapter>& adapters) {
  std::vector<TensorView> tensors;
  for (const TrainedAdapter& adapter : adapters) {
    tensors.push_back(make_view(adapter.target + kA, adapter.pair.a.shape(),
                                std::span<const float>(backend.to_host(adapter.pair.a))));
    tensors.push_back(make_view(adapter.target + kB, adapter.pair.b.shape(),
                                std::span<const float>(backend.to_host(adapter.pair.b))));
  }
  write_safetensors(path, tensors,
                    {{"format", "reprise adapters"},
                     {"r", std::to_string(recipe.lora->rank)},
                     {"alpha", fmt::format("{}", recipe.lora->alpha)}});
}

}  // namespace reprise
