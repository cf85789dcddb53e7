// The model that a recipe trains, with its tokenizer: new, from a file, or assembled.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/model.h"
#include "text/chat/chat.h"
#include "train/recipe/recipe.h"
#include "train/train_tokenizer.h"

namespace reprise {

struct TrainModel {
  std::unique_ptr<Model> model;
  TrainTokenizer tokenizer_files;
  std::unique_ptr<Tokenizer> tokenizer;  // null where there is none and the data are tokens
  std::optional<ChatFormat> format;      // the recipe's, the model's or the tokenizer's; none known
};

// Throws Error naming recipe, key and file, also where the tokenizer has more tokens than the
// model's embedding has rows. Where the config leaves the picture's placeholder to the tokenizer,
// it is set in the model.
TrainModel make_train_model(const Recipe& recipe, Backend& backend);

// Initial values of a new model: matrices and tables normal with `std`, norms 1, biases 0, layer
// scale 0.1, class token and position table normal.
std::vector<float> initial_values(const TensorSlot& slot, double std, uint64_t seed);

}  // namespace reprise
