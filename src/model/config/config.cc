#include "model/config/config.h"

#include <algorithm>

#include "base/error.h"
#include "model/arch/architecture.h"
#include "model/config/architecture.h"
#include "model/config/config_parts.h"

namespace reprise {
namespace {

// ImageNet's, which the official preprocessing of InternViT models uses.
constexpr float kImageNetMean[] = {0.485f, 0.456f, 0.406f};
constexpr float kImageNetStd[] = {0.229f, 0.224f, 0.225f};
constexpr int kMostTiles = 6;      // without the thumbnail; constants in the official code
constexpr int kMostOwnTiles = 64;  // as the image module's
constexpr int kOfficialShuffle = 2;
// OpenAI's CLIP.
constexpr float kClipMean[] = {0.48145466f, 0.4578275f, 0.40821073f};
constexpr float kClipStd[] = {0.26862954f, 0.26130258f, 0.27577711f};
constexpr int kOfficialImageLoraRank = 256;  // alpha 256 too, hence scale 1
const std::string kOfficialTiles = "official tiles: 1 to 6 and a thumbnail, ImageNet mean and std";

// Keys of our own, which any config.json may carry:
//   "reprise": {"scheme": NAME, NAME: {...}, "chat_format": NAME,
//               "image": {"kind": "square" | "tiles", "max_tiles": N, "mean": [..], "std": [..]}}
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
    config.image.max_tiles = 1;
    if (image->has("max_tiles"))
      config.image.max_tiles = static_cast<int>(image->get_int("max_tiles", 1, kMostOwnTiles));
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
                 "is missing; a model of type \"trol\" or \"phantom\" has its language model's "
                 "config there (TroL on InternLM2 has model_type \"internlm\")");
  config.text = read_text_config(*llm, Dialect::Release);
  config.tensor_prefix = "language_model.";
  config.vision = read_vision_config(json.get_object("vision_config"));
  VisionConfig& vision = *config.vision;
  vision.projector_hidden = config.text.d;
  if (vision.kind == VisionConfig::Kind::InternVit) {
    const double ratio = json.get_number("downsample_ratio");
    if (ratio != 1.0 / kOfficialShuffle)
      json.problem_at("downsample_ratio", "expected 0.5, the only one the official code has");
    vision.shuffle = kOfficialShuffle;
    if (vision.patches_per_side() % vision.shuffle != 0)
      json.get_object("vision_config")
          .problem_at("image_size",
                      fmt::format("gives {} patches a side, expected a multiple of {}",
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
  if (config.scheme == "trol" && !json.has("image_token_index"))
    config.presets.push_back("TroL: image token looked up in the tokenizer");  // as officially
  else
    config.image_token = json.get_int("image_token_index", 0, config.text.embed_rows - 1);
}

// TroL-1.8B and 7B: one flat config of InternLM2's keys. The vision tower, the adapters at image
// tokens and the placeholder are constants in the official code; "vision_config" and
// "image_token_index" are read where they are there.
void read_trol_internlm2(const JsonObject& json, ModelConfig& config) {
  TextConfig& text = config.text;
  text = read_text_config(json, Dialect::Release, *find_architecture("InternLM2ForCausalLM"),
                          "TroLForCausalLM (InternLM2)");
  if (text.qkv_bias) json.problem_at("bias", "true is not supported here: expected false");
  text.embed_rows = text.vocab + 1;  // one more for <image>, which can't be generated
  text.image_lora_rank = kOfficialImageLoraRank;
  config.presets.push_back("TroL-InternLM2: adapters of rank 256 at image tokens");
  if (const auto vision = json.find_object("vision_config")) {
    config.vision = read_vision_config(*vision);
    if (config.vision->kind != VisionConfig::Kind::Clip) {
      vision->problem_at("model_type", "expected \"clip_vision_model\" beside model_type internlm");
      config.vision->layers = 0;
    }
  } else {
    VisionConfig clip;
    clip.kind = VisionConfig::Kind::Clip;
    clip.d = 1024;
    clip.layers = 24;
    clip.heads = 16;
    clip.ffn = 4096;
    clip.patch = 14;
    clip.image_size = 490;
    clip.norm_eps = 1e-5f;
    clip.activation = Unary::QuickGelu;
    config.vision = clip;
    config.presets.push_back("TroL-InternLM2: CLIP ViT-L/14 at 490 x 490");
  }
  config.vision->projector_hidden = text.d;
  config.image = {ImageConfig::Kind::Clip490,
                  config.vision->image_size,
                  1,
                  {std::begin(kClipMean), std::end(kClipMean)},
                  {std::begin(kClipStd), std::end(kClipStd)}};
  if (json.has("image_token_index")) {
    config.image_token = json.get_int("image_token_index", 0, text.vocab);
  } else {
    config.image_token = text.vocab;
    config.presets.push_back("TroL-InternLM2: image token behind the vocabulary");
  }
}

bool is_trol_internlm2(const JsonObject& json) {
  const Json* names = json.has("architectures") ? &json.json()["architectures"] : nullptr;
  return names && *names == Json::array({"TroLForCausalLM"}) && !json.has("llm_config");
}

void read_config(const JsonObject& root, ModelConfig& config) {
  const std::string type = root.find_string("model_type").value_or("");
  if (is_trol_internlm2(root)) {
    config.scheme = "trol";
    if (type != "internlm")
      root.problem_at("model_type",
                      "expected \"internlm\" for a TroLForCausalLM without "
                      "llm_config, found \"" +
                          type + "\"");
    read_trol_internlm2(root, config);
  } else if (type == "trol" || type == "phantom") {
    config.scheme = type;
    read_vision_language(root, config);
    if (type == "phantom") config.presets.push_back("phantom release: eta 1e-4 unless configured");
  } else {
    config.scheme = "dense";
    config.text = read_text_config(root, Dialect::Transformers);
  }
  read_end_tokens(root, config.eos_tokens);
  if (config.eos_tokens.empty())
    if (const auto llm = root.find_object("llm_config")) read_end_tokens(*llm, config.eos_tokens);
  config.bos_token = root.find_int("bos_token_id").value_or(-1);
  if (const auto own = root.find_object("reprise")) read_own_keys(*own, config);
}

}  // namespace

void read_end_tokens(const JsonObject& json, std::vector<int64_t>& tokens) {
  if (!json.has("eos_token_id")) return;
  const Json& value = json.json()["eos_token_id"];
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      json.problem_at("eos_token_id", "expected a token id or an array of them");
      return;
    }
    if (std::find(tokens.begin(), tokens.end(), id.get<int64_t>()) == tokens.end())
      tokens.push_back(id.get<int64_t>());
  }
}

bool knows_architecture(const Json& json) {
  if (!json.is_object()) return true;
  const std::string type = json.contains("model_type") && json["model_type"].is_string()
                               ? json["model_type"].get<std::string>()
                               : std::string();
  const bool wrapped = (type == "trol" || type == "phantom") && json.contains("llm_config") &&
                       json["llm_config"].is_object();
  const Json& text = wrapped ? json["llm_config"] : json;
  if (!text.contains("architectures")) return true;
  const Json& names = text["architectures"];
  if (!names.is_array() || names.size() != 1 || !names[0].is_string()) return true;
  const std::string name = names[0].get<std::string>();
  return find_architecture(name) != nullptr || (!wrapped && name == "TroLForCausalLM");
}

ModelConfig config_from_json(const Json& json, const std::string& where, Problems* noted) {
  Problems own;
  Problems& problems = noted ? *noted : own;
  ModelConfig config;
  config.where = where;
  config.source = json;
  config.scheme_config = Json::object();
  // What can't be gone on after is thrown, all else noted.
  if (!problems.attempt([&] { read_config(JsonObject(json, where, "", &problems), config); }))
    config.text.layers = 0;
  if (config.vision && config.vision->layers == 0) config.text.layers = 0;
  if (!noted) own.raise();
  return config;
}

}  // namespace reprise
