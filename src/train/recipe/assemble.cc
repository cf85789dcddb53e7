#include "train/recipe/assemble.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/json.h"
#include "model/load.h"
#include "model/scheme_type.h"
#include "train/train_model.h"

namespace reprise {
namespace {

// A model file that is read but not bound to a backend.
struct Source {
  ModelSource files;
  ModelConfig config;
  TensorNames names;
};

Source open_source(const std::filesystem::path& path, const std::string& key,
                   const std::string& recipe) {
  if (!std::filesystem::exists(path))
    fail("{}: key '{}': {}: no such file or folder; expected a Hugging Face folder or a GGUF file",
         recipe, key, path.string());
  Source source;
  source.files = ModelSource::open(path);
  Problems problems;
  bool holds = true;
  source.config = read_config(source.files, problems, holds);
  problems.raise();
  source.names = tensor_names(source.files, source.config);
  return source;
}

// Names of a decoder's tensors in the new model -> in the backbone's file.
std::map<std::string, std::string> text_names(const TextConfig& text, const TensorNames& to,
                                              const TensorNames& from) {
  std::map<std::string, std::string> names;
  for (const char* key : {"embed", "head", "final_norm"})
    names[to.of(key) + ".weight"] = from.of(key) + ".weight";
  names[to.of("final_norm") + ".bias"] = from.of("final_norm") + ".bias";  // where it has one
  for (int layer = 0; layer < text.layers; ++layer) {
    std::vector<std::string> lists[2];
    for (const int side : {0, 1}) {
      Block block;
      block.visit_tensors(text, side == 0 ? to : from, layer,
                          [&](const TensorSlot& slot) { lists[side].push_back(slot.name); });
    }
    for (size_t i = 0; i < lists[0].size(); ++i) names[lists[0][i]] = lists[1][i];
  }
  return names;
}

// GGUF files of Llama-type models hold rows of q and k so that rope's pairs are neighbours: row
// 2 i + j of a head is row j hd/2 + i of the original. values [heads * hd, in].
void undo_interleaving(std::vector<float>& values, int heads, int hd) {
  const std::vector<float> from = values;
  const size_t in = values.size() / static_cast<size_t>(heads * hd);
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < hd / 2; ++i)
      for (int j = 0; j < 2; ++j)
        std::copy_n(from.begin() + static_cast<int64_t>(in) * (h * hd + 2 * i + j), in,
                    values.begin() + static_cast<int64_t>(in) * (h * hd + j * (hd / 2) + i));
}

// The new model's tensors whose rows are so in the backbone's file, and their heads.
std::map<std::string, int> interleaved_tensors(const TextConfig& backbone, const TensorNames& to) {
  std::map<std::string, int> heads;
  if (!backbone.ropes[0].interleaved) return heads;
  for (int layer = 0; layer < backbone.layers; ++layer)
    for (const auto& [key, count] : {std::pair{"q", backbone.heads}, {"k", backbone.kv_heads}})
      for (const char* end : {".weight", ".bias"})
        heads[to.of(key, layer) + to.matrix_suffix + end] = count;
  return heads;
}

// A row more: the mean of the others.
void add_mean_row(std::vector<float>& values, int64_t rows, int64_t width) {
  std::vector<double> mean(static_cast<size_t>(width));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c)
      mean[static_cast<size_t>(c)] += values[static_cast<size_t>(r * width + c)];
  for (double value : mean) values.push_back(static_cast<float>(value / static_cast<double>(rows)));
}

Json vision_keys(const Recipe& recipe, Source* tower) {
  if (tower) return *tower->config.source;
  return load_json(recipe.assembly.vision);
}

// The new model's config.json.
Json new_config(const Recipe& recipe, const Source& backbone, const Json& vision, int64_t vocab,
                int64_t image_token) {
  const Assembly& assembly = recipe.assembly;
  Json llm = *backbone.config.source;
  llm["vocab_size"] = vocab;
  Json json = {{"architectures", {find_scheme(assembly.scheme)->release.architecture}},
               {"model_type", assembly.scheme},
               {"image_token_index", image_token},
               {"llm_config", llm}};
  for (const char* key : {"vision_config", "downsample_ratio"})
    if (vision.contains(key)) json[key] = vision[key];
  if (backbone.config.eos_tokens.size() == 1) json["eos_token_id"] = backbone.config.eos_tokens[0];
  if (backbone.config.eos_tokens.size() > 1) json["eos_token_id"] = backbone.config.eos_tokens;
  if (backbone.config.bos_token >= 0) json["bos_token_id"] = backbone.config.bos_token;
  Json& own = json["reprise"] = Json::object();
  own["chat_format"] = recipe.chat_format;
  if (vision.contains("reprise") && vision["reprise"].contains("image"))
    own["image"] = vision["reprise"]["image"];
  if (Json kept = kept_options(assembly); !kept.empty()) own[assembly.scheme] = std::move(kept);
  return json;
}

void check_backbone(const Source& backbone, const std::string& recipe) {
  const std::string where =
      fmt::format("{}: key 'model.backbone': {}", recipe, backbone.files.path().string());
  if (backbone.config.scheme != default_scheme().name || backbone.config.vision)
    fail("{}: is a '{}' model, expected an ordinary language model", where, backbone.config.scheme);
  const bool factors = std::ranges::any_of(backbone.config.text.ropes, [](const RopeConfig& rope) {
    return rope.kind == RopeConfig::Kind::LongRope;
  });
  if (backbone.files.gguf() && factors)
    fail(
        "{}: keeps rope factors as tensors, which config.json has no place for; use the model's "
        "Hugging Face folder",
        where);
}

}  // namespace

std::vector<float> fresh_values(const Recipe& recipe, const TensorSlot& slot) {
  const SchemeType* scheme = find_scheme(recipe.assembly.scheme);
  if (scheme && scheme->assembly.initial_values)
    if (auto values = scheme->assembly.initial_values(slot, recipe.assembly.options))
      return std::move(*values);
  return initial_values(slot, recipe.init_std, recipe.seed);
}

Assembled assemble(const Recipe& recipe) {
  const Assembly& assembly = recipe.assembly;
  const std::string where = recipe.path.string();
  const auto backbone =
      std::make_shared<Source>(open_source(assembly.backbone, "model.backbone", where));
  check_backbone(*backbone, where);
  std::shared_ptr<Source> tower;
  if (!assembly.vision_from.empty()) {
    tower = std::make_shared<Source>(open_source(assembly.vision_from, "model.vision_from", where));
    if (!tower->config.vision)
      fail("{}: key 'model.vision_from': {}: has no vision tower", where,
           assembly.vision_from.string());
  }

  Assembled out;
  out.tokenizer = recipe.tokenizer.empty()
                      ? train_tokenizer_of(backbone->files, "name one with key 'model.tokenizer'")
                      : read_tokenizer(recipe.tokenizer);
  // A new placeholder takes a row of the embedding that no token has, else a new row.
  const int64_t rows = backbone->config.text.vocab, used = out.tokenizer.size();
  if (used > rows)
    fail("{}: the tokenizer has {} tokens, the vocab_size of {} is {}", out.tokenizer.where, used,
         assembly.backbone.string(), rows);
  const int64_t image_token = out.tokenizer.find_or_add(assembly.image_token);
  const int64_t vocab = std::max(rows, image_token + 1);
  const Json vision = vision_keys(recipe, tower.get());
  out.config = config_from_json(new_config(recipe, *backbone, vision, vocab, image_token),
                                where + ": the assembled model's config");

  const TensorNames to = tensor_names(out.config, /*gguf_style=*/false);
  const auto names = std::make_shared<std::map<std::string, std::string>>(
      text_names(backbone->config.text, to, backbone->names));
  const auto interleaved = interleaved_tensors(backbone->config.text, to);
  out.values = [=, config = out.config, recipe = &recipe](const TensorSlot& slot) {
    const auto named = names->find(slot.name);
    const bool vision_tensor = slot.role == Role::Vision;
    if (named == names->end() && !(vision_tensor && tower)) return fresh_values(*recipe, slot);
    const Source& source = vision_tensor ? *tower : *backbone;
    const TensorView& view = source.files.weights().get(vision_tensor ? slot.name : named->second);
    std::vector<float> values = to_floats(view);
    if (const auto heads = interleaved.find(slot.name); heads != interleaved.end())
      undo_interleaving(values, heads->second, config.text.head_dim);
    if (slot.role == Role::Norm)  // of the language model: both files' effective weights are one
      for (float& value : values) value += backbone->config.text.final_norm.offset - slot.offset;
    if ((slot.role == Role::Embedding || slot.role == Role::Head) && slot.shape[0] == rows + 1 &&
        view.shape.size() == 2 && view.shape[0] == rows)
      add_mean_row(values, rows, view.shape[1]);
    if (static_cast<int64_t>(values.size()) != num_elements(slot.shape))
      fail("{}: tensor '{}' has shape {}, which doesn't give {}", source.files.path().string(),
           view.name, shape_string(view.shape), shape_string(slot.shape));
    return values;
  };
  return out;
}

}  // namespace reprise
