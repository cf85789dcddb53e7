#include "train/loss_trace.h"

#include "base/error.h"
#include "formats/safetensors.h"
#include "train/loss_and_gradients.h"

namespace reprise {
namespace {

constexpr int64_t kNotCounted = -100;

// Drops the batch dimension of one row. Throws Error where the rest has another rank than expected.
TensorView one_row(const TensorView& tensor, size_t rank, const std::string& where) {
  TensorView row = tensor;
  if (row.shape.size() == rank + 1 && row.shape[0] == 1) row.shape.erase(row.shape.begin());
  if (row.shape.size() != rank)
    fail("{}: tensor '{}': expected {} dimensions (or one more, of 1), found {}", where,
         tensor.name, rank, shape_string(tensor.shape));
  return row;
}

// Picture rows [tokens, d] from features or pixels; none where the file holds neither.
Tensor picture_rows(LoadedModel& loaded, const WeightFile& file) {
  Backend& be = loaded.backend();
  const TensorView* features = file.find("image_features");
  const TensorView* pixels = file.find("pixel_values");
  if (!features && !pixels) return {};
  const VisionTower* vision = loaded.model().vision();
  if (!vision) fail("{}: pictures, but the model has no vision tower", file.where());
  const VisionConfig& config = vision->config();
  Tensor x;
  if (features) {
    const Shape expected = {features->shape.empty() ? 0 : features->shape[0],
                            config.tokens_per_tile(), config.projector_in()};
    if (features->shape != expected)
      fail("{}: tensor 'image_features': expected shape [tiles, {}, {}], found {}", file.where(),
           expected[1], expected[2], shape_string(features->shape));
    x = be.from_host(to_floats(*features), features->shape);
  } else {
    if (pixels->shape.size() != 4 || pixels->shape[1] != 3)
      fail("{}: tensor 'pixel_values': expected shape [tiles, 3, {}, {}], found {}", file.where(),
           config.image_size, config.image_size, shape_string(pixels->shape));
    x = vision->features(be, be.from_host(to_floats(*pixels), pixels->shape));
  }
  const Tensor rows = vision->project(be, x);
  return be.reshape(rows, {rows.rows(), rows.cols()});
}

struct Inputs {
  Tensor rows;                    // [n, d]
  std::vector<uint8_t> is_image;  // [n], or empty where there are none
};

Inputs input_rows(LoadedModel& loaded, const WeightFile& file) {
  Backend& be = loaded.backend();
  const ModelConfig& config = loaded.config();
  if (const TensorView* embeds = file.find("inputs_embeds")) {
    const TensorView row = one_row(*embeds, 2, file.where());
    if (row.shape[1] != config.text.d)
      fail("{}: tensor 'inputs_embeds': expected width {}, found {}", file.where(), config.text.d,
           shape_string(embeds->shape));
    return {be.from_host(to_floats(row), row.shape), {}};
  }
  const TensorView ids = one_row(file.get("input_ids"), 1, file.where());
  std::vector<int32_t> tokens, places;
  for (const int64_t id : to_ints(ids)) {
    if (id < 0 || id >= config.text.embed_rows)
      fail("{}: tensor 'input_ids': {} is outside the embedding's {} rows", file.where(), id,
           config.text.embed_rows);
    if (id == config.image_token) places.push_back(static_cast<int32_t>(tokens.size()));
    tokens.push_back(static_cast<int32_t>(id));
  }
  const Tensor x = loaded.model().embed(tokens);
  const Tensor pictures = picture_rows(loaded, file);
  const int64_t rows = pictures ? pictures.dim(0) : 0;
  if (rows != static_cast<int64_t>(places.size()))
    fail("{}: {} picture placeholders, but {} picture rows", file.where(), places.size(), rows);
  if (rows == 0) return {x, {}};
  Inputs inputs{be.replace_rows(x, places, pictures), std::vector<uint8_t>(tokens.size(), 0)};
  for (const int32_t place : places) inputs.is_image[static_cast<size_t>(place)] = 1;
  return inputs;
}

// Labels [n]: ids of the vocabulary, or -100 where a token isn't counted.
std::vector<int64_t> read_labels(const WeightFile& file, int64_t vocab) {
  const TensorView row = one_row(file.get("labels"), 1, file.where());
  if (row.type != DType::I64)
    fail("{}: tensor 'labels': expected type I64, found {}", file.where(), dtype_name(row.type));
  std::vector<int64_t> labels = to_ints(row);
  for (const int64_t label : labels)
    if (label != kNotCounted && (label < 0 || label >= vocab))
      fail("{}: tensor 'labels': expected 0 to {}, or {} for tokens that don't count, found {}",
           file.where(), vocab - 1, kNotCounted, label);
  return labels;
}

}  // namespace

bool has_labels(const std::filesystem::path& file) {
  return open_safetensors(file).weights.find("labels") != nullptr;
}

std::vector<TensorView> trace_loss(LoadedModel& loaded, const std::filesystem::path& path) {
  const WeightFile file = open_safetensors(path).weights;
  Model& model = loaded.model();
  auto* train = dynamic_cast<TrainBackend*>(&loaded.backend());
  if (train) {
    model.visit_tensors([&](const TensorSlot& slot) { train->set_trainable(*slot.tensor, true); });
    train->set_recording(true);
  }
  const int64_t vocab = loaded.config().text.vocab;
  const std::vector<int64_t> labels = read_labels(file, vocab);
  const auto [x, is_image] = input_rows(loaded, file);
  const int64_t n = x.dim(0);
  if (std::ssize(labels) != n) fail("{}: {} labels for {} tokens", file.where(), labels.size(), n);
  if (const int64_t limit = loaded.context_limit(); limit > 0 && n > limit)
    fail("{}: {} tokens, the model's context is {}", file.where(), n, limit);
  const LossAndGradients result = loss_and_gradients(model, loaded.backend(), x, labels, is_image);
  if (train) train->set_recording(false);
  const float loss[] = {static_cast<float>(result.loss)};
  std::vector<TensorView> out;
  out.push_back(make_view("loss", Shape{1}, std::span<const float>(loss)));
  out.push_back(make_view("logits", Shape{n, vocab}, std::span<const float>(result.logits)));
  if (!train) return out;
  size_t next = 0;
  model.visit_tensors([&](const TensorSlot& slot) {
    const auto& [name, values] = result.gradients[next++];
    out.push_back(make_view("grad." + name, slot.shape, std::span<const float>(values)));
  });
  return out;
}

}  // namespace reprise
