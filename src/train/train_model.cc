#include "train/train_model.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/rng.h"
#include "engine/model_text.h"
#include "train/objectives/objective.h"
#include "train/recipe/assemble.h"

namespace reprise {

std::vector<float> initial_values(const TensorSlot& slot, double std, uint64_t seed) {
  constexpr float kLayerScale = 0.1f;
  std::vector<float> values(static_cast<size_t>(num_elements(slot.shape)));
  const bool is_vector = slot.use == WeightUse::Vector;
  const bool layer_scale = slot.name.ends_with(".ls1") || slot.name.ends_with(".ls2");
  const bool token_or_table = slot.name.find("embedding") != std::string::npos;
  if (layer_scale) {
    std::fill(values.begin(), values.end(), kLayerScale);
  } else if (is_vector && !token_or_table) {
    const bool norm_weight = slot.name.ends_with(".weight");
    std::fill(values.begin(), values.end(), norm_weight ? 1.0f - slot.offset : 0.0f);
  } else if (!slot.name.ends_with(".bias")) {
    // By name, so that initial values don't depend on the order of tensors.
    const Philox random(seed, hash_bytes(slot.name));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(std) * random.normal(i);
  }
  return values;
}

namespace {

bool needs_tokenizer(const Recipe& recipe) {
  const auto is_text = [](const TextSource& source) {
    return source.kind != TextSource::Kind::Tokens;
  };
  return recipe.texts.empty() || std::ranges::any_of(recipe.texts, is_text) ||
         std::ranges::any_of(recipe.validation_texts, is_text);
}

// The same model with an exit gate of zeros (a token leaves with p = 1/2 whatever its state), where
// its scheme can have one.
std::unique_ptr<Model> with_exit_gate(const Model& model, Backend& backend) {
  ModelConfig config = model.config();
  Json scheme = *config.scheme_config, source = *config.source;
  scheme["exit_gate"] = true;
  source["reprise"][config.scheme]["exit_gate"] = true;
  config.scheme_config = scheme;
  config.source = source;
  std::map<std::string, Tensor> weights;
  model.read_tensors(
      [&](const TensorSlot& slot, const Tensor& bound) { weights.emplace(slot.name, bound); });
  return Model::create(config, backend, [&](const TensorSlot& slot) {
    const auto it = weights.find(slot.name);
    return it != weights.end() ? backend.to_host(it->second)
                               : std::vector<float>(static_cast<size_t>(num_elements(slot.shape)));
  });
}

TrainModel add_exit_gate(const Recipe& recipe, Backend& backend, TrainModel made) {
  if (recipe.loss_options && recipe.loss_options->exit_gate() &&
      !made.model->scheme().has_exit_gate())
    made.model = with_exit_gate(*made.model, backend);
  return made;
}

}  // namespace

TrainModel make_train_model(const Recipe& recipe, Backend& backend) {
  TrainModel made;
  if (!recipe.assembly.backbone.empty()) {
    Assembled parts = assemble(recipe);
    made.model = Model::create(parts.config, backend, parts.values);
    made.tokenizer_files = std::move(parts.tokenizer);
  } else if (recipe.from.empty()) {
    const Json json = load_json(recipe.config);
    made.model = Model::create(
        config_from_json(json, recipe.config.string()), backend,
        [&](const TensorSlot& slot) { return initial_values(slot, recipe.init_std, recipe.seed); });
    made.tokenizer_files = read_tokenizer(recipe.tokenizer);
  } else {
    made.model = Model::load(recipe.from, backend);
    const std::string hint = recipe.path.string() + ": name one with key 'model.tokenizer'";
    if (recipe.tokenizer.empty() && !needs_tokenizer(recipe) &&
        !has_tokenizer(made.model->source()))
      return add_exit_gate(recipe, backend, std::move(made));
    made.tokenizer_files = recipe.tokenizer.empty() ? train_tokenizer_of(made.model->source(), hint)
                                                    : read_tokenizer(recipe.tokenizer);
  }
  made.tokenizer = made.tokenizer_files.make();
  const ModelConfig& config = made.model->config();
  if (made.tokenizer->vocab_size() > config.text.embed_rows)
    fail("{}: the tokenizer has {} tokens, the model's embedding {} rows",
         made.tokenizer_files.where, made.tokenizer->vocab_size(), config.text.embed_rows);
  if (const auto id = image_token_by_tokenizer(config, *made.tokenizer))
    made.model->set_image_token(*id);
  made.format = find_chat_format(recipe.chat_format, config, made.tokenizer.get(),
                                 made.tokenizer_files.where);
  return add_exit_gate(recipe, backend, std::move(made));
}

}  // namespace reprise
