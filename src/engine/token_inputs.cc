#include "engine/token_inputs.h"

#include <algorithm>
#include <cmath>

#include "engine/images.h"

namespace reprise {
namespace {

// [n] or [1, n]: a case of one row.
Shape one_row(const TokenInputs& inputs, const TensorView& tensor) {
  Shape shape = tensor.shape;
  if (shape.size() == 2 && shape[0] == 1) shape.erase(shape.begin());
  if (shape.size() != 1) {
    fail("{}: tensor '{}': expected shape [n] or [1, n], found {}", inputs.where, tensor.name,
         shape_string(tensor.shape));
  }
  return shape;
}

std::optional<TensorView> find_pixels(const WeightFile& file, const char* name, DType type) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->type != type) {
    fail("{}: tensor '{}': expected type {}, found {}", file.where(), name, dtype_name(type),
         dtype_name(tensor->type));
  }
  return *tensor;
}

// The file's pixels as the vision tower takes them.
PixelTiles trace_pixels(const ModelConfig& config, const TokenInputs& inputs) {
  const TensorView& tensor = inputs.pixels ? *inputs.pixels : *inputs.bytes;
  if (!config.vision) {
    fail("{}: tensor '{}': the model has no vision tower", inputs.where, tensor.name);
  }
  const int64_t size = config.vision->image_size;
  if (tensor.shape.size() != 4 || tensor.shape[0] < 1 || tensor.shape[1] != 3 ||
      tensor.shape[2] != size || tensor.shape[3] != size) {
    fail("{}: tensor '{}': expected shape [tiles, 3, {}, {}], found {}", inputs.where, tensor.name,
         size, size, shape_string(tensor.shape));
  }
  PixelTiles pixels;
  pixels.tiles = tensor.shape[0];
  if (inputs.pixels) {
    pixels.values = to_floats(tensor);
    if (!std::all_of(pixels.values.begin(), pixels.values.end(),
                     [](float x) { return std::isfinite(x); }))
      fail("{}: tensor '{}': holds NaN or infinity", inputs.where, tensor.name);
  } else {
    Tiles tiles;
    tiles.count = static_cast<int>(tensor.shape[0]);
    tiles.size = static_cast<int>(size);
    const auto* first = reinterpret_cast<const uint8_t*>(tensor.data.data());
    tiles.bytes.assign(first, first + tensor.data.size());
    pixels.values = normalise(tiles, preprocess_config(config.image));
  }
  return pixels;
}

}  // namespace

TokenInputs read_token_inputs(const std::filesystem::path& path) {
  const WeightFile file = open_safetensors(path).weights;
  TokenInputs inputs;
  inputs.where = path.string();
  const TensorView* ids = file.find("input_ids");
  if (ids == nullptr) ids = file.find("prompt");
  if (ids == nullptr) fail("{}: no tensor 'input_ids' (int64 [n])", inputs.where);
  if (ids->type != DType::I64) {
    fail("{}: tensor '{}': expected type I64, found {}", inputs.where, ids->name,
         dtype_name(ids->type));
  }
  const Shape shape = one_row(inputs, *ids);
  if (shape[0] == 0) fail("{}: tensor '{}' is empty", inputs.where, ids->name);
  for (const int64_t id : to_ints(*ids)) {
    if (id < 0 || id > INT32_MAX) {
      fail("{}: tensor '{}': {} is no token id", inputs.where, ids->name, id);
    }
    inputs.ids.push_back(static_cast<int32_t>(id));
  }
  if (const TensorView* mask = file.find("attention_mask")) {
    const std::vector<int64_t> values = to_ints(*mask);
    if (one_row(inputs, *mask) != shape ||
        !std::all_of(values.begin(), values.end(), [](int64_t m) { return m == 1; })) {
      fail("{}: tensor 'attention_mask': expected one 1 per token; padding is not supported",
           inputs.where);
    }
  }
  inputs.pixels = find_pixels(file, "pixel_values", DType::F32);
  inputs.bytes = find_pixels(file, "pixel_u8", DType::U8);
  if (inputs.pixels && inputs.bytes) {
    fail("{}: both 'pixel_values' and 'pixel_u8'; expected one of them", inputs.where);
  }
  return inputs;
}

TokenPrompt token_prompt(LoadedModel& loaded, const TokenInputs& inputs, Observer* observer) {
  TokenPrompt prompt;
  prompt.ids = inputs.ids;
  if (inputs.pixels || inputs.bytes) {
    const PixelTiles pixels = trace_pixels(loaded.config(), inputs);
    prompt.image_rows = encode_pixels(loaded.model(), pixels, observer);
  }
  mark_placeholders(loaded.config(), prompt, inputs.where);
  return prompt;
}

}  // namespace reprise
