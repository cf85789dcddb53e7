#include "model/config/config.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/architecture.h"
#include "model/config/config_parts.h"
#include "model/config/vision_language.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

constexpr int kMostOwnTiles = 64;  // as the image module's

// Keys of our own, which any config.json may carry:
//   "reprise": {"scheme": NAME, NAME: {...}, "chat_format": NAME,
//               "qkv": NAME (beside the decoder's keys; config_text.cc),
//               "plan": "0-14,10-14@0.1,15-29" (plan/plan.h),
//               "exit": {"kind": NAME, "threshold": T, "kv": NAME},   (exit_config.h)
//               "image": {"kind": "square" | "tiles", "max_tiles": N, "mean": [..], "std": [..]}}
void read_plan(const JsonObject& own, ModelConfig& config) {
  const auto plan = own.find_string("plan");
  const SchemeType* type = find_scheme(config.scheme);
  if (!plan || !type || config.text.layers == 0) return;  // the last two are said elsewhere
  check_stored_plan(config, *plan, config.where + ": key 'reprise.plan'");
  config.plan = *plan;
}

void read_own_keys(const JsonObject& own, ModelConfig& config) {
  if (const auto scheme = own.find_string("scheme")) config.scheme = *scheme;
  if (const auto keys = own.find_object(config.scheme)) config.scheme_config = keys->json();
  config.chat_format = own.find_string("chat_format").value_or("");
  try {  // by itself: what is wrong with it is no problem of the model
    const JsonObject alone(own.json(), own.where(), "reprise.");
    if (const auto exit = alone.find_object("exit")) config.exit = read_exit_config(*exit);
  } catch (const Error& error) {
    config.exit_problem = error.what();
  }
  std::vector<std::string> known = {"scheme", "chat_format", "qkv", "plan", "exit", "image"};
  for (const SchemeType* type : scheme_types()) known.push_back(type->name);
  own.allow_only(known);
  read_plan(own, config);
  if (const auto image = own.find_object("image")) {
    image->allow_only({"kind", "max_tiles", "mean", "std"});
    std::erase(config.presets, kTilesPreset);  // said by the file itself
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

void read_config(const JsonObject& root, ModelConfig& config) {
  root.find_string("model_type");  // an error where it is no string, whoever reads it
  if (const SchemeType* type = recognise_release(root.json())) {
    const SchemeRelease& release = type->release;
    config.scheme = type->name;
    if (release.read) {
      release.read(root, config);
    } else {
      config.text =
          read_text_config(root, Dialect::Transformers, *release.decoder(), release.architecture);
      config.scheme_config = root.json();
    }
  } else {
    config.scheme = default_scheme().name;
    config.text = read_text_config(root, Dialect::Transformers);
  }
  read_end_tokens(root, config.eos_tokens);
  if (config.eos_tokens.empty())
    if (const auto llm = root.find_object("llm_config")) read_end_tokens(*llm, config.eos_tokens);
  config.bos_token = root.find_int("bos_token_id").value_or(-1);
  if (const auto own = root.find_object("reprise")) read_own_keys(*own, config);
}

}  // namespace

int64_t context_limit(const TextConfig& text) {
  const bool stretches = std::ranges::any_of(
      text.ropes, [](const RopeConfig& rope) { return rope.kind == RopeConfig::Kind::Dynamic; });
  return stretches ? 0 : text.max_position;
}

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

bool knows_decoder(const Json& json) {
  const auto names = json.find("architectures");
  if (names == json.end()) return true;
  if (!names->is_array() || names->size() != 1 || !(*names)[0].is_string()) return true;
  return find_architecture((*names)[0].get<std::string>()) != nullptr;
}

bool knows_architecture(const Json& json) {
  if (!json.is_object()) return true;
  const SchemeType* type = recognise_release(json);
  if (!type) return knows_decoder(json);
  if (type->release.knows_decoder) return type->release.knows_decoder(json);
  return type->release.decoder || knows_decoder(decoder_part(json));
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
