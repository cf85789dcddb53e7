#include "train/recipe/recipe.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "model/scheme_type.h"
#include "train/objectives/objective.h"
#include "train/recipe/section.h"
#include "train/recipe/text_recipe.h"

namespace reprise {
namespace {

constexpr int64_t kMostRank = 1 << 16;
constexpr int64_t kMostBatch = 1 << 16;  // far above what fits; a typing error ends here

DataSource read_source(const YAML::Node& node, const std::string& where, size_t index,
                       const std::filesystem::path& folder) {
  Section section(node, where, fmt::format("data.train[{}]", index));
  DataSource source;
  section.read_path("file", source.file, folder);
  section.read_path("images", source.images, folder);
  section.read("generator", source.generator, "a string");
  section.read("wrong_answers", source.wrong_answers, "a string");
  section.read_number("weight", source.weight, 0);
  section.read("flips", source.flips, "true or false");
  section.read("quarter_turns", source.quarter_turns, "true or false");
  section.finish();
  if (!source.wrong_answers.empty() && source.wrong_answers != "easy-vqa")
    section.bad("wrong_answers", "expected easy-vqa, found '" + source.wrong_answers + "'");
  if (!source.generator.empty() && source.generator != "easy-vqa")
    section.bad("generator", "expected easy-vqa, found '" + source.generator + "'");
  if (source.file.empty() == source.generator.empty())
    section.bad("file", "expected either file or generator");
  return source;
}

// Keys of all schemes' options for assembly; read_model says which the recipe's may have.
void read_scheme_options(Section& section, SchemeOptions& options) {
  for (const DeclaredOption& known : declared_options(SchemeOption::When::Assembly)) {
    const std::string& name = known.option().name;
    if (!section.has(name)) continue;
    std::string text;
    section.read(name, text, expected_value(known.option()).c_str());
    try {
      options.set(name, parse_option(known.option(), text));
    } catch (const Error& error) {
      section.bad(name, error.what());
    }
  }
}

void read_model(Section section, Recipe& recipe, const std::filesystem::path& folder) {
  section.read_path("config", recipe.config, folder);
  section.read_path("tokenizer", recipe.tokenizer, folder);
  section.read_path("from", recipe.from, folder);
  section.read("chat_format", recipe.chat_format, "a string");
  section.read_number("init_std", recipe.init_std, 0);
  Assembly& assembly = recipe.assembly;
  section.read_path("backbone", assembly.backbone, folder);
  section.read("scheme", assembly.scheme, "a scheme's name");
  section.read_path("vision_from", assembly.vision_from, folder);
  section.read_path("vision", assembly.vision, folder);
  section.read("image_token", assembly.image_token, "a string");
  read_scheme_options(section, assembly.options);
  section.finish();
  const int ways = !recipe.from.empty() + !recipe.config.empty() + !assembly.backbone.empty();
  if (ways != 1)
    section.bad("config",
                "expected exactly one of config (a new model), from (a model to go on with) and "
                "backbone (a language model to build around)");
  if (!recipe.config.empty() && recipe.tokenizer.empty())
    section.bad("tokenizer", "is missing; a new model needs a tokenizer.json");
  if (!assembly.backbone.empty()) {
    const SchemeType* scheme = find_scheme(assembly.scheme);
    if (!scheme || !scheme->assembly.possible)
      section.bad(
          "scheme",
          fmt::format("expected {} beside backbone, found '{}'",
                      scheme_list([](const SchemeType& s) { return s.assembly.possible; }, "or"),
                      assembly.scheme));
    if (assembly.vision_from.empty() == assembly.vision.empty())
      section.bad("vision_from",
                  "expected either vision_from (a model's tower) or vision (a new one)");
    if (recipe.chat_format.empty())
      section.bad("chat_format", "is missing; an assembled model needs one that has pictures");
    if (assembly.image_token.empty()) section.bad("image_token", "expected a token's text");
    for (const DeclaredOption& known : declared_options(SchemeOption::When::Assembly))
      if (assembly.options.has(known.option().name) &&
          !scheme->option(known.option().name, SchemeOption::When::Assembly))
        section.bad(known.option().name, "belongs to scheme " + known.schemes.front()->name);
  } else {
    std::vector<std::string> keys = {"scheme", "vision_from", "vision", "image_token"};
    for (const auto& [name, value] : assembly.options.values()) keys.push_back(name);
    for (const std::string& key : keys)
      if (section.has(key)) section.bad(key, "is for assembling a model, which needs backbone");
  }
}

const ObjectiveKind& read_loss(Section& top, Recipe& recipe, const std::filesystem::path& folder) {
  top.read("loss", recipe.loss, "an objective's name");
  const ObjectiveKind* chosen = find_objective(recipe.loss);
  if (!chosen)
    top.bad("loss", fmt::format("expected one of {}, found '{}'", objective_names(), recipe.loss));
  for (const ObjectiveKind& kind : objective_kinds())
    for (const std::string& section : kind.sections)
      if (std::ranges::find(chosen->sections, section) == chosen->sections.end() &&
          top.has(section))
        top.bad(section, fmt::format("is given, but loss is not {}", kind.name));
  if (chosen->read) recipe.loss_options = chosen->read(top, folder);
  return *chosen;
}

void read_data(Section section, const ObjectiveKind& loss, Recipe& recipe, const std::string& where,
               const std::filesystem::path& folder) {
  const YAML::Node sources = section.node("train");
  if (!sources || !sources.IsSequence() || sources.size() == 0)
    section.bad("train", "expected a list of sources");
  const bool texts = are_texts(sources);
  if (loss.on_texts && !texts)
    section.bad(
        "train",
        fmt::format("loss {} trains on texts, expected text, jsonl or tokens sources", loss.name));
  if (!loss.on_texts && texts)
    section.bad("train", fmt::format("has texts, which loss {} doesn't train on", loss.name));
  if (texts) return read_text_data(section, sources, recipe, where, folder);
  for (const YAML::Node& node : sources)
    recipe.train.push_back(read_source(node, where, recipe.train.size(), folder));
  section.read_path("validation", recipe.validation, folder);
  section.read_path("validation_images", recipe.validation_images, folder);
  section.read_int("validation_every", recipe.validation_every, 1);
  section.read_int("validation_limit", recipe.validation_limit, 1);
  section.read_int("questions_per_image", recipe.questions_per_image, 1, kMostBatch);
  section.finish();
  double sum = 0;
  for (const DataSource& source : recipe.train) sum += source.weight;
  if (!(sum > 0)) section.bad("train", "expected a positive weight");
}

void read_optimizer(Section section, OptimizerRecipe& o) {
  section.read_number("lr", o.lr, 0);
  section.read_number("min_lr", o.min_lr, 0);
  std::string schedule = "cosine";
  section.read("schedule", schedule, "cosine or constant");
  if (schedule != "cosine" && schedule != "constant")
    section.bad("schedule", "expected cosine or constant, found '" + schedule + "'");
  o.constant = schedule == "constant";
  if (o.constant && section.has("min_lr")) section.bad("min_lr", "belongs to schedule cosine");
  section.read_int("warmup_steps", o.warmup_steps, 0);
  section.read_share("beta1", o.beta1);
  section.read_share("beta2", o.beta2);
  section.read_positive("eps", o.eps);
  section.read_number("weight_decay", o.weight_decay, 0);
  section.read_number("clip", o.clip, 0);
  section.finish();
  if (o.min_lr > o.lr) section.bad("min_lr", "is larger than lr");
}

void read_lora(Section section, Recipe& recipe) {
  LoraRecipe& lora = recipe.lora.emplace();
  section.read_int("r", lora.rank, 1, kMostRank);
  if (!section.has("alpha")) section.bad("alpha", "is missing, expected a number above 0");
  section.read_positive("alpha", lora.alpha);
  section.read_share("dropout", lora.dropout);
  section.read_strings("targets", lora.targets);
  section.read_path("from", lora.from, recipe.path.parent_path());
  std::string how = "merged";
  section.read("export", how, "merged or beside");
  section.finish();
  if (how != "merged" && how != "beside")
    section.bad("export", "expected merged or beside, found '" + how + "'");
  lora.merged = how == "merged";
  if (lora.rank == 0) section.bad("r", "is missing, expected the adapters' rank");
  if (lora.targets.empty()) section.bad("targets", "is missing, expected patterns of matrices");
}

void read_quantize(Section section, Recipe& recipe) {
  QuantizeRecipe& quantize = recipe.quantize.emplace();
  section.read("type", quantize.type, "nf4 or int8");
  section.read("double", quantize.double_quantization, "true or false");
  section.read_strings("targets", quantize.targets);
  section.finish();
  if (quantize.type != "nf4" && quantize.type != "int8")
    section.bad("type", "expected nf4 or int8, found '" + quantize.type + "'");
  if (quantize.double_quantization && quantize.type != "nf4")
    section.bad("double", "belongs to type nf4");
  if (quantize.targets.empty()) section.bad("targets", "is missing, expected patterns of matrices");
}

void read_run(Section section, Recipe& recipe) {
  section.read_int("steps", recipe.steps, 1);
  if (recipe.steps == 0) section.bad("steps", "is missing, expected an integer");
  section.read_number("minutes", recipe.minutes, 0);
  section.read_int("batch", recipe.batch, 1, kMostBatch);
  section.read_int("accumulate", recipe.accumulate, 1, kMostBatch);
  std::string precision = "fp32";
  section.read("precision", precision, "fp32 or bf16");
  if (precision != "fp32" && precision != "bf16")
    section.bad("precision", "expected fp32 or bf16, found '" + precision + "'");
  recipe.bf16 = precision == "bf16";
  section.read("gradient_checkpointing", recipe.gradient_checkpointing, "true or false");
  section.read_share("adapter_dropout", recipe.adapter_dropout);
  section.read("seed", recipe.seed, "an integer of at least 0");
  section.read_strings("freeze", recipe.freeze);
  section.read_strings("train_only", recipe.train_only);
  section.read_int("checkpoint_every", recipe.checkpoint_every, 1);
  section.read_int("log_every", recipe.log_every, 1);
  section.finish();
}

}  // namespace

Json kept_options(const Assembly& assembly) {
  Json kept = Json::object();
  const SchemeType* scheme = find_scheme(assembly.scheme);
  for (const auto& [name, value] : assembly.options.values()) {
    const SchemeOption* option =
        scheme ? scheme->option(name, SchemeOption::When::Assembly) : nullptr;
    if (option && option->in_config) kept[name] = std::visit([](auto v) { return Json(v); }, value);
  }
  return kept;
}

Recipe load_recipe(const std::filesystem::path& path) {
  constexpr size_t kMostBytes = 1 << 20;
  const std::string where = path.string();
  YAML::Node root;
  try {
    root = YAML::Load(read_file(path, kMostBytes));
  } catch (const YAML::Exception& error) {
    fail("{}: not valid YAML: {}", where, error.what());
  }
  if (!root.IsMap()) fail("{}: expected a YAML mapping with model, data, optimizer, run", where);
  const std::filesystem::path folder = path.parent_path();
  Recipe recipe;
  recipe.path = path;
  Section top(root, where, "");
  for (const char* key : {"model", "data", "run"})
    if (!top.has(key)) fail("{}: key '{}' is missing", where, key);
  read_model(top.section("model"), recipe, folder);
  const ObjectiveKind& loss = read_loss(top, recipe, folder);
  read_data(top.section("data"), loss, recipe, where, folder);
  if (top.has("lora")) read_lora(top.section("lora"), recipe);
  if (top.has("quantize")) read_quantize(top.section("quantize"), recipe);
  read_optimizer(top.section("optimizer"), recipe.optimizer);
  read_run(top.section("run"), recipe);
  top.finish();
  return recipe;
}

namespace {

Json recipe_identity(const Recipe& recipe) {
  // Files by their names: a folder may have moved.
  const auto name = [](const std::filesystem::path& path) { return path.filename().string(); };
  Json json = {{"model.config", name(recipe.config)},
               {"model.tokenizer", name(recipe.tokenizer)},
               {"model.from", name(recipe.from)},
               {"model.backbone", name(recipe.assembly.backbone)},
               {"model.scheme", recipe.assembly.scheme},
               {"model.vision", name(recipe.assembly.vision)},
               {"model.vision_from", name(recipe.assembly.vision_from)},
               {"model.image_token", recipe.assembly.image_token},
               {"model.chat_format", recipe.chat_format},
               {"data.questions_per_image", recipe.questions_per_image},
               {"loss", recipe.loss},
               {"run.batch", recipe.batch},
               {"run.accumulate", recipe.accumulate},
               {"run.precision", recipe.bf16 ? "bf16" : "fp32"},
               {"run.seed", recipe.seed},
               {"run.adapter_dropout", recipe.adapter_dropout}};
  if (recipe.loss_options) recipe.loss_options->identify(json);
  for (const auto& [key, value] : kept_options(recipe.assembly).items())
    json["model." + key] = value;
  Json& sources = json["data.train"] = Json::array();
  for (const DataSource& source : recipe.train)
    sources.push_back({name(source.file), name(source.images), source.generator,
                       source.wrong_answers, source.weight, source.flips, source.quarter_turns});
  if (!recipe.texts.empty()) identify_texts(recipe, json);
  const OptimizerRecipe& o = recipe.optimizer;
  for (const auto& [key, value] :
       {std::pair{"lr", o.lr}, std::pair{"min_lr", o.min_lr}, std::pair{"beta1", o.beta1},
        std::pair{"beta2", o.beta2}, std::pair{"eps", o.eps},
        std::pair{"weight_decay", o.weight_decay}, std::pair{"clip", o.clip}})
    json[std::string("optimizer.") + key] = value;
  json["optimizer.warmup_steps"] = o.warmup_steps;
  if (o.constant) json["optimizer.schedule"] = "constant";
  if (const auto& lora = recipe.lora) {
    json["lora.r"] = lora->rank;
    json["lora.alpha"] = lora->alpha;
    json["lora.dropout"] = lora->dropout;
    json["lora.targets"] = lora->targets;
  }
  if (const auto& quantize = recipe.quantize) {
    json["quantize.type"] = quantize->type;
    json["quantize.double"] = quantize->double_quantization;
    json["quantize.targets"] = quantize->targets;
  }
  return json;
}

}  // namespace

std::string identity_text(const Recipe& recipe) {
  // A file's name may be any bytes.
  return recipe_identity(recipe).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void check_same_recipe(const Recipe& recipe, const std::string& identity,
                       const std::filesystem::path& checkpoint) {
  if (identity.empty()) return;  // of a version that didn't keep it
  const std::string where = checkpoint.string() + ": metadata 'recipe'";
  const Json then = parse_json(identity, where);
  JsonObject(then, where);  // Error unless it is an object
  const Json now = parse_json(identity_text(recipe), where);
  std::set<std::string> keys;
  for (const Json* side : {&then, &now})
    for (const auto& [key, value] : side->items()) keys.insert(key);
  std::string list;
  for (const std::string& key : keys) {
    const Json before = then.value(key, Json()), after = now.value(key, Json());
    if (before != after)
      list += fmt::format("\n  {}: {}, now {}", key, before.dump(), after.dump());
  }
  if (!list.empty())
    fail("{}: was begun with another recipe than {}:{}", checkpoint.string(), recipe.path.string(),
         list);
}

}  // namespace reprise
