// From pictures to rows of the language model's input, each picture encoded once.
#pragma once

#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "engine/picture.h"
#include "engine/session.h"
#include "image/preprocess.h"

namespace reprise {

// Normalised pixels, what a vision tower takes: values [tiles, 3, size, size].
struct PixelTiles {
  int64_t tiles = 0;
  std::vector<float> values;
};

PreprocessConfig preprocess_config(const ImageConfig& config);

// Pixels -> [tiles * tokens_per_tile, d] rows. Throws Error when the model has no vision tower.
Tensor encode_pixels(Model& model, const PixelTiles& pixels, Observer* observer = nullptr);

// Sets prompt.is_image where the ids are the model's image placeholder. Throws Error beginning with
// `where` unless there are as many placeholders as rows in prompt.image_rows.
void mark_placeholders(const ModelConfig& config, TokenPrompt& prompt, const std::string& where);

// One encoded picture.
struct EncodedImage {
  Tensor rows;        // [tokens, d]
  int64_t tiles = 0;  // how many the picture was cut into, thumbnail included
  PictureKey key;
};

// Decodes and encodes pictures and keeps the last few encodings.
class ImageEncoder {
 public:
  explicit ImageEncoder(Model& model, size_t keep = 8) : model_(model), keep_(keep) {}

  // Keeps at least so many encodings: a conversation's pictures are asked for again at every turn.
  void keep_at_least(size_t count) { keep_ = std::max(keep_, count); }

  // seconds: the time it took, 0 when the cache had it. Throws Error naming the picture when it
  // can't be decoded, or when the model takes none.
  std::shared_ptr<const EncodedImage> encode(const Picture& picture, const PictureOptions& options,
                                             double* seconds);

 private:
  Model& model_;
  size_t keep_;
  std::list<std::shared_ptr<const EncodedImage>> cache_;  // latest first
};

}  // namespace reprise
