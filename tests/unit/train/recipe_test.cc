#include "train/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/json.h"
#include "support/paths.h"

namespace reprise {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kGood = R"(
model:
  config: config.json
  tokenizer: tokenizer.json
data:
  train:
    - {generator: easy-vqa, weight: 3}
    - {file: train.jsonl, images: pictures, flips: true}
optimizer: {lr: 2.0e-3, min_lr: 1.0e-5, warmup_steps: 10, clip: 0.5}
run:
  steps: 100
  precision: bf16
  freeze: ["vision_model.*"]
)";

std::filesystem::path write_recipe(const std::string& text) {
  // A folder for each process: ctest runs several tests of this file at once.
  const auto folder =
      std::filesystem::path(testing::TempDir()) / fmt::format("reprise-recipe-{}", getpid());
  std::filesystem::create_directories(folder);
  const auto path = folder / "recipe.yaml";
  std::ofstream(path) << text;
  return path;
}

std::string error_of(const std::string& text) {
  try {
    load_recipe(write_recipe(text));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(Recipe, ReadsEveryPart) {
  const Recipe recipe = load_recipe(write_recipe(kGood));
  EXPECT_EQ(recipe.config, recipe.path.parent_path() / "config.json");
  ASSERT_EQ(recipe.train.size(), 2u);
  EXPECT_EQ(recipe.train[0].generator, "easy-vqa");
  EXPECT_EQ(recipe.train[0].weight, 3);
  EXPECT_EQ(recipe.train[1].images, recipe.path.parent_path() / "pictures");
  EXPECT_TRUE(recipe.train[1].flips);
  EXPECT_EQ(recipe.optimizer.lr, 2e-3);
  EXPECT_EQ(recipe.optimizer.clip, 0.5);
  EXPECT_TRUE(recipe.bf16);
  EXPECT_EQ(recipe.steps, 100);
  EXPECT_EQ(recipe.freeze, std::vector<std::string>{"vision_model.*"});
}

TEST(Recipe, ErrorsNameFileLineAndKey) {
  std::string error = error_of(with(kGood, "steps: 100", "stepz: 100"));
  EXPECT_THAT(error, HasSubstr("recipe.yaml"));
  EXPECT_THAT(error, HasSubstr("run.steps"));
  error = error_of(with(kGood, "precision: bf16", "precison: bf16"));
  EXPECT_THAT(error, HasSubstr(":12"));
  EXPECT_THAT(error, HasSubstr("run.precison"));
  EXPECT_THAT(error, HasSubstr("precision"));  // among the keys it knows
  EXPECT_THAT(error_of(with(kGood, "bf16", "fp8")), HasSubstr("run.precision"));
  EXPECT_THAT(error_of(with(kGood, "steps: 100", "steps: 100\n  batch: 100000000000000")),
              HasSubstr("run.batch"));
  EXPECT_THAT(error_of(with(kGood, "steps: 100", "steps: 100\n  steps: 200")),
              AllOf(HasSubstr("run.steps"), HasSubstr("twice")));
  EXPECT_THAT(error_of(with(kGood, "clip: 0.5", "clip: .inf")), HasSubstr("optimizer.clip"));
  EXPECT_THAT(error_of(with(kGood, "clip: 0.5", "eps: 0")), HasSubstr("optimizer.eps"));
  EXPECT_THAT(error_of(with(kGood, "generator: easy-vqa", "generator: hard-vqa")),
              AllOf(HasSubstr("recipe.yaml"), HasSubstr("generator"), HasSubstr("hard-vqa")));
  EXPECT_THAT(error_of(with(kGood, "2.0e-3", "fast")), HasSubstr("optimizer.lr"));
  EXPECT_THAT(error_of(with(kGood, "2.0e-3", "-1")), HasSubstr("optimizer.lr"));
  EXPECT_THAT(error_of(with(kGood, "min_lr: 1.0e-5", "min_lr: 1")), HasSubstr("min_lr"));
  EXPECT_THAT(error_of(with(kGood, "  config: config.json\n", "")), HasSubstr("model.config"));
  EXPECT_THAT(error_of(with(kGood, "  tokenizer: tokenizer.json\n", "")),
              HasSubstr("model.tokenizer"));
  EXPECT_THAT(error_of(with(kGood, "generator: easy-vqa, ", "")), HasSubstr("data.train[0].file"));
  EXPECT_THAT(error_of("model: [1, 2"), HasSubstr("not valid YAML"));
  EXPECT_THAT(error_of("just text"), HasSubstr("expected a YAML mapping"));
  EXPECT_THAT(error_of("model: {}\n"), HasSubstr("'data' is missing"));
}

// What a message says is expected is what is accepted.
TEST(Recipe, RangesAreThoseOfTheMessages) {
  for (const char* wrong : {"-1", "0", "1.0e-60", "1.0e60", ".nan"})
    EXPECT_THAT(error_of(with(kGood, "clip: 0.5", std::string("eps: ") + wrong)),
                AllOf(HasSubstr("optimizer.eps"), HasSubstr("finite number above 0")))
        << wrong;
  for (const char* wrong : {"-0.1", "1", "0.9999999999", ".inf"})
    EXPECT_THAT(error_of(with(kGood, "clip: 0.5", std::string("beta1: ") + wrong)),
                AllOf(HasSubstr("optimizer.beta1"), HasSubstr("from 0 to below 1")))
        << wrong;
  EXPECT_EQ(load_recipe(write_recipe(with(kGood, "clip: 0.5", "beta1: 0"))).optimizer.beta1, 0);
}

TEST(Recipe, EveryRecipeOfTheRepositoryIsRead) {
  int recipes = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(test::source_dir() / "recipes"))
    if (entry.path().extension() == ".yaml") {
      EXPECT_GT(load_recipe(entry.path()).steps, 0) << entry.path();
      ++recipes;
    }
  EXPECT_GE(recipes, 9);
}

TEST(Recipe, OptionalSectionsMayBeLeftOut) {
  std::string text = kGood;
  text = with(text, "optimizer: {lr: 2.0e-3, min_lr: 1.0e-5, warmup_steps: 10, clip: 0.5}\n", "");
  EXPECT_EQ(load_recipe(write_recipe(text)).optimizer.lr, OptimizerRecipe().lr);
}

TEST(Recipe, Assembling) {
  const std::string text = with(kGood, "  config: config.json\n  tokenizer: tokenizer.json\n", R"(
  backbone: lm.gguf
  scheme: phantom
  vision_from: tower.gguf
  chat_format: chatml-image
  eta: 0.01
)");
  const Recipe recipe = load_recipe(write_recipe(text));
  EXPECT_EQ(recipe.assembly.backbone, recipe.path.parent_path() / "lm.gguf");
  EXPECT_EQ(recipe.assembly.image_token, "<image>");
  EXPECT_EQ(recipe.assembly.options.number("eta"), 0.01);
  EXPECT_THAT(error_of(with(text, "scheme: phantom", "scheme: dense")), HasSubstr("model.scheme"));
  EXPECT_THAT(error_of(with(text, "scheme: phantom", "scheme: trol")), HasSubstr("model.eta"));
  EXPECT_THAT(error_of(with(text, "eta: 0.01", "gate_bias: 1")), HasSubstr("model.gate_bias"));
  EXPECT_THAT(error_of(with(text, "  vision_from: tower.gguf\n", "")),
              HasSubstr("model.vision_from"));
  EXPECT_THAT(error_of(with(text, "  chat_format: chatml-image\n", "")),
              HasSubstr("model.chat_format"));
  EXPECT_THAT(error_of(with(text, "  backbone: lm.gguf\n", "  config: c.json\n  tokenizer: t\n")),
              HasSubstr("model.scheme"));
  EXPECT_THAT(error_of(with(text, "  scheme: phantom\n", "  from: model.gguf\n")),
              HasSubstr("exactly one of"));
}

TEST(Recipe, AdaptersAndFewBits) {
  const std::string text = std::string(R"(
lora: {r: 64, alpha: 32, dropout: 0.05, targets: ["a.*"], export: beside}
quantize: {type: nf4, double: true, targets: ["a.*"]}
)") + kGood;
  const Recipe recipe = load_recipe(write_recipe(text));
  ASSERT_TRUE(recipe.lora && recipe.quantize);
  EXPECT_EQ(recipe.lora->rank, 64);
  EXPECT_EQ(recipe.lora->alpha, 32);
  EXPECT_FALSE(recipe.lora->merged);
  EXPECT_TRUE(recipe.quantize->double_quantization);
  EXPECT_THAT(error_of(with(text, "r: 64, ", "")), HasSubstr("lora.r"));
  EXPECT_THAT(error_of(with(text, "alpha: 32, ", "")), HasSubstr("lora.alpha"));
  EXPECT_THAT(error_of(with(text, "dropout: 0.05", "dropout: 1")), HasSubstr("lora.dropout"));
  EXPECT_THAT(error_of(with(text, "beside", "aside")), HasSubstr("lora.export"));
  EXPECT_THAT(error_of(with(text, "nf4", "nf5")), HasSubstr("quantize.type"));
  EXPECT_THAT(error_of(with(text, "nf4", "int8")), HasSubstr("quantize.double"));
}

TEST(Recipe, PreferenceTraining) {
  const std::string po = std::string("loss: sft+po\npo: {beta: 3, gamma: 0.25}") + kGood;
  const Recipe recipe = load_recipe(write_recipe(po));
  EXPECT_EQ(recipe.loss, "sft+po");
  const Json identity = Json::parse(identity_text(recipe));
  EXPECT_EQ(identity["po.beta"], 3);
  EXPECT_EQ(identity["po.gamma"], 0.25);
  const Json other = Json::parse(identity_text(load_recipe(write_recipe(kGood))));
  EXPECT_EQ(other["loss"], "sft");
  EXPECT_FALSE(other.contains("po.beta"));
  EXPECT_THAT(error_of(with(po, "sft+po", "dpo")),
              testing::AllOf(HasSubstr("key 'loss'"), HasSubstr("sft+po")));
  EXPECT_THAT(error_of(with(po, "sft+po", "sft")), HasSubstr("key 'po'"));
  EXPECT_THAT(error_of(with(po, "gamma", "gama")), HasSubstr("po.gama"));
  EXPECT_THAT(error_of(with(po, "generator: easy-vqa,", "generator: easy-vqa, wrong_answers: x,")),
              HasSubstr("wrong_answers"));
}

}  // namespace
}  // namespace reprise
