// Pictures of training examples: changed at random, and made pixels.
#pragma once

#include <vector>

#include "base/rng.h"
#include "image/image.h"
#include "model/config/config.h"
#include "train/data/batch.h"
#include "train/recipe/recipe.h"

namespace reprise {

// Mirrors and turns a picture as the source allows, in place.
void augment(const DataSource& source, Philox& random, Image& image);

// Appends the pictures' normalised tiles to the batch's pixels; gives how many tokens each of them
// takes. Throws Error naming the config where the model takes no pictures.
std::vector<int64_t> add_pixels(const ModelConfig& config, const std::vector<Image>& images,
                                Batch& batch);
// The Error alone.
void check_takes_pictures(const ModelConfig& config);

}  // namespace reprise
