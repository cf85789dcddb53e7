// Builds a model of a scheme around an existing language model: its weights (dequantized), a vision
// tower from another model or a new one, a fresh projector and fresh tensors of the scheme, and a
// placeholder token for pictures. The result is an ordinary model with a config.json of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "train/recipe/recipe.h"
#include "train/train_tokenizer.h"

namespace reprise {

struct Assembled {
  ModelConfig config;
  TrainTokenizer tokenizer;
  // Values of a tensor of the new model; reads the files on demand.
  std::function<std::vector<float>(const TensorSlot&)> values;
};

// Backbone: a Hugging Face folder or a GGUF file of an ordinary decoder. GGUF files of Llama-type
// models hold the rows of q and k in another order, which is undone. The placeholder is a token of
// the tokenizer with that text, else a new one; a new one that needs a new row of the embedding
// (and of the head) gets the mean of the others. Throws Error naming recipe, key and file.
Assembled assemble(const Recipe& recipe);

// Initial values of a tensor that no file has: the scheme's (SchemeAssembly), else initial_values.
std::vector<float> fresh_values(const Recipe& recipe, const TensorSlot& slot);

}  // namespace reprise
