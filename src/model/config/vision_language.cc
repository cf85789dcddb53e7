#include "model/config/vision_language.h"

#include <fmt/format.h>

#include "base/json.h"
#include "model/config/config_parts.h"

namespace reprise {
namespace {

// ImageNet's, which the official preprocessing of InternViT models uses.
constexpr float kImageNetMean[] = {0.485f, 0.456f, 0.406f};
constexpr float kImageNetStd[] = {0.229f, 0.224f, 0.225f};
constexpr int kMostTiles = 6;  // without the thumbnail; a constant in the official code
constexpr int kOfficialShuffle = 2;
// OpenAI's CLIP.
constexpr float kClipMean[] = {0.48145466f, 0.4578275f, 0.40821073f};
constexpr float kClipStd[] = {0.26862954f, 0.26130258f, 0.27577711f};

}  // namespace

const Json& decoder_part(const Json& config) {
  const auto llm = config.find("llm_config");
  return llm != config.end() && llm->is_object() ? *llm : config;
}

std::string string_or_empty(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

bool has_architecture(const Json& config, const char* name) {
  const auto names = config.find("architectures");
  return names != config.end() && *names == Json::array({name});
}

void read_wrapped_decoder(const JsonObject& json, ModelConfig& config, const char* hint) {
  const auto llm = json.find_object("llm_config");
  if (!llm)
    json.fail_at("llm_config",
                 fmt::format("is missing; a model of type \"{}\" has its language model's config "
                             "there{}",
                             string_or_empty(json.json(), "model_type"), hint));
  config.text = read_text_config(*llm, Dialect::Release);
  config.tensor_prefix = "language_model.";
  config.vision = read_vision_config(json.get_object("vision_config"));
  VisionConfig& vision = *config.vision;
  vision.projector_hidden = config.text.d;
  if (vision.kind != VisionConfig::Kind::InternVit)
    json.fail_at("vision_config.model_type", "a CLIP tower is not supported beside llm_config");
  const double ratio = json.get_number("downsample_ratio");
  if (ratio != 1.0 / kOfficialShuffle)
    json.problem_at("downsample_ratio", "expected 0.5, the only one the official code has");
  vision.shuffle = kOfficialShuffle;
  if (vision.patches_per_side() % vision.shuffle != 0)
    json.get_object("vision_config")
        .problem_at("image_size", fmt::format("gives {} patches a side, expected a multiple of {}",
                                              vision.patches_per_side(), vision.shuffle));
  config.image = {ImageConfig::Kind::Tiles,
                  vision.image_size,
                  kMostTiles,
                  {std::begin(kImageNetMean), std::end(kImageNetMean)},
                  {std::begin(kImageNetStd), std::end(kImageNetStd)}};
  config.presets.push_back(kTilesPreset);
}

ImageConfig clip_image(int size) {
  return {ImageConfig::Kind::Clip490,
          size,
          1,
          {std::begin(kClipMean), std::end(kClipMean)},
          {std::begin(kClipStd), std::end(kClipStd)}};
}

}  // namespace reprise
