#include "train/data/pictures.h"

#include <algorithm>

#include "base/error.h"
#include "engine/images.h"

namespace reprise {
namespace {

Image mirrored(const Image& image) {
  Image out(image.width, image.height);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(image.row(y) + 3 * (image.width - 1 - x), 3, out.row(y) + 3 * x);
  return out;
}

Image quarter_turned(const Image& image) {
  Image out(image.height, image.width);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(image.row(y) + 3 * x, 3, out.row(x) + 3 * (image.height - 1 - y));
  return out;
}

}  // namespace

void augment(const DataSource& source, Philox& random, Image& image) {
  if (source.flips && random.next_below(2)) image = mirrored(image);
  if (source.quarter_turns)
    for (uint32_t turns = random.next_below(4); turns > 0; --turns) image = quarter_turned(image);
}

void check_takes_pictures(const ModelConfig& config) {
  if (!config.vision) fail("{}: pictures, but the model has no vision tower", config.where);
  if (config.image_token < 0)
    fail("{}: which token is a picture's place is said neither by the config nor the tokenizer",
         config.where);
}

std::vector<int64_t> add_pixels(const ModelConfig& config, const std::vector<Image>& images,
                                Batch& batch) {
  std::vector<int64_t> image_tokens;
  if (images.empty()) return image_tokens;
  check_takes_pictures(config);
  const PreprocessConfig how = preprocess_config(config.image);
  for (const Image& image : images) {
    const Tiles tiles = preprocess(image, how);
    const std::vector<float> pixels = normalise(tiles, how);
    batch.pixels.insert(batch.pixels.end(), pixels.begin(), pixels.end());
    batch.tiles += tiles.count;
    image_tokens.push_back(int64_t{tiles.count} * config.vision->tokens_per_tile());
  }
  return image_tokens;
}

}  // namespace reprise
