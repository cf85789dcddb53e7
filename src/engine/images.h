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

// Decodes and encodes pictures and keeps the last few encodings, or more up to `keep_bytes`.
class ImageEncoder {
 public:
  explicit ImageEncoder(Model& model, int64_t keep_bytes = 0)
      : model_(model), keep_bytes_(keep_bytes) {}

  // Keeps at least so many encodings: a conversation's pictures are asked for again at every turn.
  void keep_at_least(size_t count) { keep_ = std::max(keep_, count); }

  // seconds: the time it took, 0 when the cache had it. Throws Error naming the picture when it
  // can't be decoded, or when the model takes none.
  std::shared_ptr<const EncodedImage> encode(const Picture& picture, const PictureOptions& options,
                                             double* seconds);

 private:
  Model& model_;
  size_t keep_ = 8;
  const int64_t keep_bytes_;
  int64_t bytes_ = 0;                                     // of what is kept
  std::list<std::shared_ptr<const EncodedImage>> cache_;  // latest first
};

}  // namespace reprise
