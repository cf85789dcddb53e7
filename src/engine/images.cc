#include "engine/images.h"

#include <algorithm>
#include <chrono>

#include "base/clock.h"
#include "image/decode.h"

namespace reprise {

PreprocessConfig preprocess_config(const ImageConfig& config) {
  PreprocessConfig result;
  switch (config.kind) {
    case ImageConfig::Kind::Clip490:
      result.kind = PreprocessKind::Clip490;
      break;
    case ImageConfig::Kind::Tiles:
      result.kind = PreprocessKind::Tiles;
      break;
    case ImageConfig::Kind::Square:
      result.kind = PreprocessKind::Square;
      break;
  }
  REPRISE_CHECK(config.mean.size() == 3 && config.std.size() == 3);
  result.size = config.size;
  result.max_tiles = config.max_tiles;
  std::copy_n(config.mean.begin(), 3, result.mean.begin());
  std::copy_n(config.std.begin(), 3, result.std.begin());
  return result;
}

Tensor encode_pixels(Model& model, const PixelTiles& pixels, Observer* observer) {
  const VisionTower* vision = model.vision();
  if (vision == nullptr) {
    fail("{}: the model takes text only, but a picture was given", model.config().where);
  }
  const int64_t size = vision->config().image_size;
  Backend& be = model.backend();
  const Tensor x = be.from_host(pixels.values, {pixels.tiles, 3, size, size});
  const Tensor rows = vision->encode(be, x, observer);  // [tiles, tokens, d]
  return be.reshape(rows, {rows.dim(0) * rows.dim(1), rows.dim(2)});
}

void mark_placeholders(const ModelConfig& config, TokenPrompt& prompt, const std::string& where) {
  const int64_t rows = prompt.image_rows ? prompt.image_rows.dim(0) : 0;
  int64_t found = 0;
  prompt.is_image.clear();
  if (config.image_token >= 0) {
    found = std::count(prompt.ids.begin(), prompt.ids.end(), config.image_token);
  }
  if (rows > 0 && config.image_token < 0) {
    fail(
        "{}: key 'image_token_index' is missing, and the model has no tokenizer that tells the "
        "id of its image placeholder",
        config.where);
  }
  if (found != rows) {
    fail(
        "{}: {} image placeholders (token {}) in the prompt, but the pictures give {} rows; a text "
        "that holds the placeholder itself counts too",
        where, found, config.image_token, rows);
  }
  if (found == 0) return;
  for (const int32_t id : prompt.ids) prompt.is_image.push_back(id == config.image_token);
}

std::shared_ptr<const EncodedImage> ImageEncoder::encode(const Picture& picture,
                                                         const PictureOptions& options,
                                                         double* seconds) {
  *seconds = 0;
  const VisionTower* vision = model_.vision();
  if (vision == nullptr) {
    fail("{}: the model takes text only, picture {} can't be shown to it", model_.config().where,
         picture.name());
  }
  const PictureKey key{picture.sha256(), options};
  const auto hit =
      std::find_if(cache_.begin(), cache_.end(), [&](const auto& e) { return e->key == key; });
  if (hit != cache_.end()) {
    cache_.splice(cache_.begin(), cache_, hit);
    return cache_.front();
  }

  const auto start = std::chrono::steady_clock::now();
  DecodeOptions decode;
  decode.picture = options;
  const Image image = decode_image(picture.bytes(), picture.name(), decode);
  const PreprocessConfig config = preprocess_config(model_.config().image);
  const Tiles tiles = preprocess(image, config);
  PixelTiles pixels;
  pixels.tiles = tiles.count;
  pixels.values = normalise(tiles, config);
  auto encoded = std::make_shared<EncodedImage>();
  encoded->rows = encode_pixels(model_, pixels);
  encoded->tiles = tiles.count;
  encoded->key = key;
  *seconds = seconds_since(start);
  const auto bytes_of = [](const EncodedImage& image) {
    return num_elements(image.rows.shape()) * static_cast<int64_t>(sizeof(float));
  };
  cache_.push_front(encoded);
  bytes_ += bytes_of(*encoded);
  while (cache_.size() > keep_ && bytes_ > keep_bytes_) {
    bytes_ -= bytes_of(*cache_.back());
    cache_.pop_back();
  }
  return encoded;
}

}  // namespace reprise
