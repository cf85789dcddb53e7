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
  inputs.states = find_pixels(file, "input_states", DType::F32);
  inputs.decode_states = find_pixels(file, "decode.states", DType::F32);
  if (inputs.pixels && inputs.bytes) {
    fail("{}: both 'pixel_values' and 'pixel_u8'; expected one of them", inputs.where);
  }
  return inputs;
}

std::shared_ptr<const InitialStates> initial_states(const Model& model, const Plan& plan,
                                                    const TokenInputs& inputs, int64_t steps,
                                                    bool drawn) {
  InitialStates initial;
  initial.drawn = drawn && !inputs.states && !inputs.decode_states;
  const auto add = [&](const TensorView& tensor, int64_t rows, bool exactly) {
    if (!plan.initial())
      fail("{}: tensor '{}': the model has no initial states", inputs.where, tensor.name);
    Shape shape = tensor.shape;
    if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
    const int64_t d = model.config().text.d;
    if (shape.size() != 2 || shape[1] != d || (exactly ? shape[0] != rows : shape[0] < rows))
      fail("{}: tensor '{}': expected shape [{}, {}]{}, found {}", inputs.where, tensor.name, rows,
           d, exactly ? "" : " or more rows", shape_string(tensor.shape));
    const std::vector<float> values = to_floats(tensor);
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
      fail("{}: tensor '{}': holds NaN or infinity", inputs.where, tensor.name);
    initial.given.insert(initial.given.end(), values.begin(), values.end());
  };
  if (inputs.states) add(*inputs.states, std::ssize(inputs.ids), true);
  if (inputs.decode_states) {
    if (!inputs.states)
      fail("{}: tensor 'decode.states': expected 'input_states' beside it", inputs.where);
    add(*inputs.decode_states, std::max<int64_t>(0, steps - 1), false);
  }
  return std::make_shared<const InitialStates>(std::move(initial));
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
