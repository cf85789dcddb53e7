#include "model/config.h"

#include "base/error.h"
#include "model/config_parts.h"

namespace reprise {
namespace {

// ImageNet's, which the official preprocessing of InternViT models uses.
constexpr float kImageNetMean[] = {0.485f, 0.456f, 0.406f};
constexpr float kImageNetStd[] = {0.229f, 0.224f, 0.225f};
constexpr int kMostTiles = 6;  // without the thumbnail; constants in the official code
constexpr int kOfficialShuffle = 2;
const std::string kOfficialTiles = "official tiles: 1 to 6 and a thumbnail, ImageNet mean and std";

void read_eos(const JsonObject& json, ModelConfig& config) {
  if (!json.has("eos_token_id")) return;
  const Json& value = json.json()["eos_token_id"];
  const auto add = [&](const Json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0)
      json.fail_at("eos_token_id", "expected a token id or an array of them");
    config.eos_tokens.push_back(id.get<int64_t>());
  };
  if (value.is_array())
    for (const Json& id : value) add(id);
  else
    add(value);
}

// Keys of our own, which any config.json may carry:
//   "reprise": {"scheme": NAME, NAME: {...}, "chat_format": NAME,
//               "image": {"kind": "square" | "tiles", "size": S, "max_tiles": N, "mean": [..],
//               "std": [..]}}
void read_own_keys(const JsonObject& own, ModelConfig& config) {
  if (const auto scheme = own.find_string("scheme")) config.scheme = *scheme;
  if (const auto keys = own.find_object(config.scheme)) config.scheme_config = keys->json();
  config.chat_format = own.find_string("chat_format").value_or("");
  if (const auto image = own.find_object("image")) {
    std::erase(config.presets, kOfficialTiles);  // said by the file itself
    const std::string kind = image->get_string("kind");
    if (kind == "square")
      config.image.kind = ImageConfig::Kind::Square;
    else if (kind == "tiles")
      config.image.kind = ImageConfig::Kind::Tiles;
    else
      image->fail_at("kind", "expected \"square\" or \"tiles\", found \"" + kind + "\"");
    config.image.max_tiles = static_cast<int>(image->find_int("max_tiles").value_or(1));
    for (const auto& [key, values] :
         {std::pair{"mean", &config.image.mean}, std::pair{"std", &config.image.std}}) {
      values->clear();
      for (double value : image->get_numbers(key)) values->push_back(static_cast<float>(value));
      if (values->size() != 3) image->fail_at(key, "expected 3 numbers");
    }
  }
}

void read_vision_language(const JsonObject& json, ModelConfig& config) {
  const auto llm = json.find_object("llm_config");
  if (!llm)
    json.fail_at("llm_config",
                 "is missing; of the TroL and Phantom releases this version reads those with a "
                 "Phi-3 or Qwen2 language model, which have it");
  config.text = read_text_config(*llm);
  config.tensor_prefix = "language_model.";
  config.vision = read_vision_config(json.get_object("vision_config"));
  VisionConfig& vision = *config.vision;
  vision.projector_hidden = config.text.d;
  if (vision.kind == VisionConfig::Kind::InternVit) {
    const double ratio = json.get_number("downsample_ratio");
    if (ratio != 1.0 / kOfficialShuffle)
      json.fail_at("downsample_ratio", "expected 0.5, the only one the official code has");
    vision.shuffle = kOfficialShuffle;
    if (vision.patches_per_side() % vision.shuffle != 0)
      json.get_object("vision_config")
          .fail_at("image_size", fmt::format("gives {} patches a side, expected a multiple of {}",
                                             vision.patches_per_side(), vision.shuffle));
    config.image = {ImageConfig::Kind::Tiles,
                    vision.image_size,
                    kMostTiles,
                    {std::begin(kImageNetMean), std::end(kImageNetMean)},
                    {std::begin(kImageNetStd), std::end(kImageNetStd)}};
    config.presets.push_back(kOfficialTiles);
  } else {
    json.fail_at("vision_config.model_type", "a CLIP tower is not supported beside llm_config");
  }
  config.image_token = json.get_int("image_token_index", 0, config.text.embed_rows - 1);
}

}  // namespace

ModelConfig config_from_json(const Json& json, const std::string& where) {
  const JsonObject root(json, where);
  ModelConfig config;
  config.where = where;
  config.source = json;
  config.scheme_config = Json::object();
  const std::string type = root.find_string("model_type").value_or("");
  if (type == "trol" || type == "phantom") {
    config.scheme = type;
    read_vision_language(root, config);
    if (type == "phantom") config.presets.push_back("phantom release: eta 1e-4 unless configured");
  } else {
    config.scheme = "dense";
    config.text = read_text_config(root);
  }
  read_eos(root, config);
  if (config.eos_tokens.empty())
    if (const auto llm = root.find_object("llm_config")) read_eos(*llm, config);
  config.bos_token = root.find_int("bos_token_id").value_or(-1);
  if (const auto own = root.find_object("reprise")) read_own_keys(*own, config);
  return config;
}

}  // namespace reprise
