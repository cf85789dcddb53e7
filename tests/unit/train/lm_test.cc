// Language modelling by a recipe: its keys, its terms and how they add up, distillation, early
// exits with their gate, and runs that go on from a checkpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "model/save.h"
#include "support/error_of.h"
#include "support/rrt_models.h"
#include "support/test_models.h"
#include "support/tiny_models.h"
#include "support/torch_device.h"
#include "text/tokenizer/tokenizer_files.h"
#include "train/data/text_batches.h"
#include "train/loop/checkpoint.h"
#include "train/loop/log.h"
#include "train/loop/optimizer.h"
#include "train/objectives/lm_terms.h"
#include "train/trainer.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kPlain = R"(
model: {from: student}
data:
  train: [{tokens: tokens.safetensors}]
  validation: [{tokens: tokens.safetensors}]
  validation_every: 4
loss: lm
optimizer: {lr: 1.0e-3, schedule: constant, clip: 0}
run: {steps: 4, batch: 2, accumulate: 2, log_every: 1}
)";

class Lm : public ::testing::Test {
 protected:
  // A relaxed recursive model of 2 blocks and 3 loops, and five rows of tokens.
  void SetUp() override {
    if (!torch_plugin_path()) GTEST_SKIP() << "built without the torch backend";
    std::filesystem::create_directories(folder_ / "student");
    write_rrt_model({"llama", 2, 3, "average-4"}, folder_ / "student");
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 5 * 13; ++i) ids.push_back(i * i * 7 % 320);
    write_safetensors(folder_ / "tokens.safetensors",
                      {make_view("tokens", Shape{5, 13}, std::span<const int64_t>(ids))});
  }
  Recipe recipe(const std::string& text) const {
    write_file_atomically(folder_ / "recipe.yaml", text);
    return load_recipe(folder_ / "recipe.yaml");
  }
  std::string recipe_error(const std::string& text) const {
    return error_of([&] { recipe(text); });
  }
  std::vector<StepReport> train(const std::string& text, const std::string& out,
                                int64_t stop_after = 0, bool resume = false) const {
    const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
    std::vector<StepReport> reports;
    TrainOptions options;
    options.output = folder_ / out;
    options.stop_after = stop_after;
    options.resume = resume;
    options.progress = [&](const StepReport& report) { reports.push_back(report); };
    Trainer(recipe(text), *backend, options).run();
    return reports;
  }
  // A run in two parts gives what one in one go gives.
  std::vector<StepReport> train_in_parts(const std::string& text) const {
    const std::vector<StepReport> whole = train(text, "whole");
    std::vector<StepReport> parts = train(text, "parts", 3);
    for (StepReport& report : train(text, "parts", 0, true)) parts.push_back(std::move(report));
    EXPECT_EQ(whole.size(), 4u);
    EXPECT_EQ(whole.size(), parts.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      EXPECT_EQ(whole[i].loss, parts[i].loss) << i;
      EXPECT_EQ(whole[i].values, parts[i].values) << i;
    }
    return whole;
  }
  static std::string teacher() { return (golden_root() / "rrt/llama/model").string(); }
  Checkpoint checkpoint(const std::string& out) const {
    return read_checkpoint(folder_ / out / "checkpoint.safetensors");
  }

  const testing::TempFolder folder_;
};

TEST(LmTerms, WeightsOfExits) {
  EXPECT_EQ(weighted_exits(3), (std::vector<double>{1 / 6.0, 2 / 6.0, 3 / 6.0}));
  EXPECT_EQ(aggressive_exits(3, 0.1), (std::vector<double>{0.1, 0.1, 1}));
}

// Layers behind the loops belong to every exit.
TEST(LmTerms, ExitsGoThroughTheLayersBehindTheLoops) {
  const auto be = recording_torch();
  if (!be) GTEST_SKIP() << "built without the torch backend";
  Json config = tiny_text_config("LlamaForCausalLM", {.layers = 4});
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", 3}, {"lora_rank", 2}, {"first", 1}, {"last", 1}}}};
  const auto model = tiny_model(config, *be);
  const Plan plan = model->prefill_plan();
  const LmExits exits(plan);
  ASSERT_EQ(exits.count(), 3);
  Batch batch;
  add_token_row(std::vector<int32_t>{1, 2, 3, 4, 5, 6}, batch);
  const Model::Results forward = run_forward(*model, plan, batch, /*exits=*/true);
  std::vector<std::vector<float>> outputs;
  for (int i = 0; i < 3; ++i)
    outputs.push_back(
        be->to_host(exits.output_state(*model, batch, forward.exits[static_cast<size_t>(i)], i)));
  EXPECT_EQ(outputs[2], be->to_host(forward.state));
  EXPECT_NE(outputs[2], be->to_host(forward.exits[2]));
  EXPECT_NE(outputs[1], outputs[2]);
}

TEST(ConstantSchedule, IsWarmUpAndThenTheSame) {
  OptimizerRecipe optimizer;
  optimizer.lr = 2;
  optimizer.constant = true;
  optimizer.warmup_steps = 4;
  EXPECT_EQ(learning_rate(optimizer, 1, 100), 1);
  EXPECT_EQ(learning_rate(optimizer, 4, 100), 2);
  EXPECT_EQ(learning_rate(optimizer, 99, 100, 0.5), 2);
}

TEST_F(Lm, RecipesAreStrict) {
  const auto with = [](const std::string& line) { return kPlain + line + "\n"; };
  const auto swapped = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_EQ(recipe_error(kPlain), "");
  EXPECT_THAT(recipe_error(with("distill: {divergence: jsd}")), HasSubstr("distill.teacher"));
  EXPECT_THAT(recipe_error(with("distill: {teacher: a, divergence: js}")),
              AllOf(HasSubstr("distill.divergence"), HasSubstr("reverse_kl"), HasSubstr("'js'")));
  for (const char* wrong : {"0", "-1"}) {
    EXPECT_THAT(recipe_error(with(fmt::format("distill: {{teacher: a, temperature: {}}}", wrong))),
                AllOf(HasSubstr("distill.temperature"), HasSubstr("above 0")));
    EXPECT_THAT(recipe_error(with(fmt::format("distill: {{teacher: a, weight: {}}}", wrong))),
                AllOf(HasSubstr("distill.weight"), HasSubstr("above 0")));
  }
  EXPECT_THAT(recipe_error(with("distill: {teacher: a, bits: 4}")), HasSubstr("distill.bits"));
  EXPECT_THAT(recipe_error(with("distill: {teacher: a, alpha: 4}")), HasSubstr("distill.alpha"));
  EXPECT_THAT(recipe_error(with("early_exit: {loss: none}")), HasSubstr("early_exit.loss"));
  EXPECT_THAT(recipe_error(with("early_exit: {loss: weighted, alpha: 1}")),
              HasSubstr("early_exit.alpha"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "loss: lm", "loss: sft")),
              AllOf(HasSubstr("texts"), HasSubstr("sft")));
  EXPECT_THAT(recipe_error(swapped(with("early_exit: {}"), "loss: lm", "loss: sft")),
              HasSubstr("early_exit"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "[{tokens: tokens.safetensors}]", "[{file: a.jsonl}]")),
              AllOf(HasSubstr("data.train"), HasSubstr("loss lm trains on texts")));
  EXPECT_THAT(recipe_error(swapped(kPlain, "[{tokens: tokens.safetensors}]\n  validation:",
                                   "[{file: a.jsonl}]\n  context: 12\n  validation:")),
              AllOf(HasSubstr("data.train"), HasSubstr("loss lm trains on texts")));
  EXPECT_THAT(recipe_error(swapped(kPlain, "tokens: tokens.safetensors", "text: a.txt")),
              HasSubstr("data.context"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "tokens: tokens.safetensors", "jsonl: a.jsonl")),
              HasSubstr("data.train[0].key"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "tokens: tokens.safetensors", "tokens: a, text: a.txt")),
              HasSubstr("exactly one"));
  EXPECT_THAT(
      recipe_error(swapped(kPlain, "  validation_every", "  flips: true\n  validation_every")),
      HasSubstr("data.flips"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "schedule: constant", "schedule: linear")),
              HasSubstr("optimizer.schedule"));
  EXPECT_THAT(recipe_error(swapped(kPlain, "schedule: constant", "schedule: constant, min_lr: 0")),
              HasSubstr("optimizer.min_lr"));
}

TEST_F(Lm, TrainsWithoutATokenizerAndGoesOnInTheMiddleOfAnEpoch) {
  const std::vector<StepReport> reports = train_in_parts(kPlain);
  EXPECT_THAT(checkpoint("whole").data, ::testing::StartsWith("3/1/5/"));
  for (const StepReport& report : reports) {
    EXPECT_EQ(report.tokens, 4 * 12);
    EXPECT_NEAR(report.loss, report.values.at("ce"), 1e-6);
    EXPECT_EQ(report.values.size(), 1u);
  }
  ASSERT_TRUE(reports.back().validation_loss);
  EXPECT_FALSE(reports.back().validation_exact);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "whole/model.gguf"));
  EXPECT_EQ(read_log(folder_ / "whole/log.jsonl", 4).back().values, reports.back().values);
}

TEST_F(Lm, TermsAddUp) {
  for (const bool weighted : {false, true}) {
    SCOPED_TRACE(weighted);
    std::filesystem::remove_all(folder_ / "whole");
    std::filesystem::remove_all(folder_ / "parts");
    const std::string text =
        std::string(kPlain) + "distill: {teacher: " + teacher() +
        ", divergence: reverse_kl, weight: 0.5, temperature: 2}\nearly_exit: {loss: " +
        (weighted ? "weighted" : "aggressive, alpha: 0.2") + "}\n";
    for (const StepReport& report : train_in_parts(text)) {
      const auto value = [&](const char* name) { return report.values.at(name); };
      const double first = weighted ? 1 / 6.0 : 0.2, second = weighted ? 2 / 6.0 : 0.2,
                   last = weighted ? 0.5 : 1.0;
      EXPECT_NEAR(report.loss,
                  last * value("ce") + first * (value("exit.0.ce") + value("exit.0.kd")) +
                      second * (value("exit.1.ce") + value("exit.1.kd")) +
                      0.5 * 4 * value("distill"),
                  1e-4);
      EXPECT_EQ(report.values.size(), 6u);
    }
  }
  const std::string plain = std::string(kPlain) + "early_exit: {distill: false}\n";
  EXPECT_EQ(train(plain, "plain", 1)[0].values.size(), 3u);
}

// The gate is trained beside the model: whatever it does, the model is the same.
TEST_F(Lm, TheGateDoesNotDisturbTheModel) {
  const std::string with = std::string(kPlain) + "early_exit: {gate: true}\n";
  const std::string without = std::string(kPlain) + "early_exit: {}\n";
  const std::vector<StepReport> gated = train_in_parts(with);
  const std::vector<StepReport> plain = train(without, "plain");
  EXPECT_NEAR(gated[0].values.at("gate"), std::log(2.0), 1e-6) << "a new gate says 1/2";
  EXPECT_LT(gated.back().values.at("gate"), gated[0].values.at("gate"));
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(gated[i].values.at("ce"), plain[i].values.at("ce"));
  const Checkpoint a = checkpoint("whole"), b = checkpoint("plain");
  ASSERT_EQ(a.weights.size(), b.weights.size() + 2);
  for (const CheckpointEntry& entry : a.weights) {
    const auto same = std::ranges::find(b.weights, entry.name, &CheckpointEntry::name);
    if (entry.name.starts_with("reprise.exit_gate"))
      EXPECT_NE(entry.values, std::vector<float>(entry.values.size())) << entry.name;
    else
      EXPECT_TRUE(same != b.weights.end() && same->values == entry.values) << entry.name;
  }
  const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
  EXPECT_TRUE(Model::load(folder_ / "whole/model.gguf", *backend)->scheme().has_exit_gate());
}

TEST_F(Lm, ATeacherMayBeInFewBits) {
  const auto first = [&](const std::string& options, const std::string& out) {
    return train(std::string(kPlain) + "distill: {teacher: " + teacher() + options + "}\n", out,
                 1)[0]
        .values.at("distill");
  };
  const double full = first("", "full");
  for (const char* bits : {"nf4", "int8"}) {
    const double few = first(std::string(", bits: ") + bits, bits);
    EXPECT_NE(few, full);
    EXPECT_NEAR(few, full, 0.3 * full);
  }
}

TEST_F(Lm, ATeacherOfItselfTeachesNothing) {
  const std::string text = std::string(kPlain) + "distill: {teacher: student, divergence: jsd}\n";
  EXPECT_NEAR(train(text, "out", 1)[0].values.at("distill"), 0, 1e-6);
}

TEST_F(Lm, WhatDoesNotFitIsSaid) {
  std::filesystem::copy(golden_root() / "rrt/llama/model", folder_ / "dense");
  EXPECT_THAT(error_of([&] {
                std::string text = kPlain;
                text.replace(text.find("from: student"), 13, "from: dense");
                train(text + "early_exit: {}\n", "out");
              }),
              AllOf(HasSubstr("recipe.yaml"), HasSubstr("early_exit"),
                    HasSubstr("dense/config.json isn't looped (scheme 'dense')")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out")) << "nothing is left of a failed start";
  {
    const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
    const auto small = tiny_model(tiny_text_config("LlamaForCausalLM"), *backend);
    save_gguf(*small, folder_ / "small.gguf", SaveOptions());
  }
  EXPECT_THAT(
      error_of([&] { train(std::string(kPlain) + "distill: {teacher: small.gguf}\n", "out"); }),
      AllOf(HasSubstr("recipe.yaml"), HasSubstr("distill.teacher"), HasSubstr("small.gguf"),
            HasSubstr("46"), HasSubstr("student"), HasSubstr("320")));
  // The same number of tokens, and other ones.
  for (const char* name : {"student", "dense"})
    std::filesystem::copy(testing::test_data("engine/tokenizer"), folder_ / name);
  const std::string text = std::string(kPlain) + "distill: {teacher: dense}\n";
  EXPECT_EQ(error_of([&] { train(text, "same", 1); }), "");
  testing::edit_json(folder_ / "dense/tokenizer.json", [](Json& json) {
    Json& token = json["added_tokens"].back();
    const std::string name = token["content"];
    json["model"]["vocab"]["<other>"] = token["id"];
    json["model"]["vocab"].erase(name);
    token["content"] = "<other>";
  });
  EXPECT_THAT(error_of([&] { train(text, "out"); }),
              AllOf(HasSubstr("dense"), HasSubstr("student"), HasSubstr("<other>")));
}

TEST_F(Lm, TextsTrain) {
  std::filesystem::copy(testing::test_data("engine/tokenizer"), folder_ / "student");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the cat sat on the mat\n\n";
  write_file_atomically(folder_ / "train.txt", text);
  std::string yaml = kPlain;
  yaml.replace(yaml.find("tokens: tokens.safetensors"), 26, "text: train.txt");
  yaml.replace(yaml.find("tokens: tokens.safetensors"), 26, "text: train.txt");
  yaml.replace(yaml.find("  validation_every"), 18, "  context: 16\n  validation_every");
  const std::vector<StepReport> reports = train_in_parts(yaml);
  EXPECT_LT(reports.back().loss, reports[0].loss);
  const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
  EXPECT_TRUE(has_tokenizer(Model::load(folder_ / "whole/model.gguf", *backend)->source()));
  // Another text is another run's.
  write_file_atomically(folder_ / "train.txt", text + "more");
  EXPECT_THAT(error_of([&] { train(yaml, "parts", 0, true); }), HasSubstr("other data"));
}

TEST_F(Lm, ARunGoesOnWithTheSameTeacherAndModelAlone) {
  std::filesystem::copy(golden_root() / "rrt/llama/model", folder_ / "teacher");
  const std::string text = std::string(kPlain) + "distill: {teacher: teacher, bits: int8}\n";
  train(text, "run", 2);
  const auto resume = [&] { return error_of([&] { train(text, "run", 3, true); }); };
  // One weight by its last bit.
  const auto flip = [&](const char* model) {
    testing::edit_tensors(folder_ / model / "model.safetensors", [](TensorView& tensor) {
      if (tensor.name != "model.layers.1.mlp.up_proj.weight") return;
      std::vector<float> values = to_floats(tensor);
      values[77] = std::nextafter(values[77], 9.0f);
      tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
    });
  };
  const std::string weights = read_file(folder_ / "teacher/model.safetensors");
  flip("teacher");
  EXPECT_THAT(resume(), AllOf(HasSubstr("run/checkpoint.safetensors"),
                              HasSubstr("another 'distill.teacher' of"), HasSubstr("recipe.yaml")));
  write_file_atomically(folder_ / "teacher/model.safetensors", weights);
  // Another config of the same weights.
  const auto set = [&](const char* model, const char* key, const Json& value) {
    testing::edit_json(folder_ / model / "config.json", [&](Json& config) { config[key] = value; });
  };
  const std::string config = read_file(folder_ / "teacher/config.json");
  set("teacher", "rms_norm_eps", 1e-3);
  EXPECT_THAT(resume(), HasSubstr("another 'distill.teacher' of"));
  write_file_atomically(folder_ / "teacher/config.json", config);
  // The model itself: its weights are in the checkpoint, its config isn't.
  const std::string own = read_file(folder_ / "student/config.json");
  set("student", "rms_norm_eps", 1e-3);
  EXPECT_THAT(resume(), HasSubstr("another 'model.from' of"));
  write_file_atomically(folder_ / "student/config.json", own);
  testing::edit_json(folder_ / "student/config.json", [](Json& json) {
    json["reprise"]["exit"] = {{"kind", "depth"}, {"threshold", 1}, {"kv", "exact"}};
  });
  EXPECT_EQ(resume(), "") << "when tokens leave has no part in training";
}

TEST_F(Lm, RowsAreNoLongerThanTheContext) {
  const auto with_limit = [&](const char* model, int limit) {
    testing::edit_json(folder_ / model / "config.json",
                       [&](Json& config) { config["max_position_embeddings"] = limit; });
  };
  std::filesystem::copy(golden_root() / "rrt/llama/model", folder_ / "teacher");
  std::string text = kPlain;  // rows of 12
  with_limit("student", 11);
  EXPECT_THAT(error_of([&] { train(text, "out"); }),
              AllOf(HasSubstr("tokens.safetensors: rows of 12 tokens, expected at most 11"),
                    HasSubstr("student/config.json (max_position_embeddings)")));
  text.replace(text.find("  validation_every"), 18, "  context: 12\n  validation_every");
  EXPECT_THAT(error_of([&] { train(text, "out"); }),
              AllOf(HasSubstr("recipe.yaml: key 'data.context': rows of 12 tokens"),
                    HasSubstr("at most 11")));
  with_limit("student", 12);
  EXPECT_EQ(error_of([&] { train(text, "fits", 1); }), "");
  with_limit("teacher", 11);
  text += "distill: {teacher: teacher}\n";
  EXPECT_THAT(error_of([&] { train(text, "out"); }),
              AllOf(HasSubstr("distill.teacher"), HasSubstr("its context has 11 tokens")));
  text.replace(text.find("  context: 12\n"), 14, "");
  EXPECT_THAT(error_of([&] { train(text, "out"); }), HasSubstr("its context has 11 tokens"));
}

TEST_F(Lm, AFailedStartLeavesNothing) {
  std::filesystem::copy(testing::test_data("engine/tokenizer"), folder_ / "student");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the cat sat on the mat\n\n";
  write_file_atomically(folder_ / "train.txt", text);
  write_file_atomically(folder_ / "short.txt", "the cat");
  std::string yaml = kPlain;
  yaml.replace(yaml.find("tokens: tokens.safetensors"), 26, "text: train.txt");
  yaml.replace(yaml.find("tokens: tokens.safetensors"), 26, "text: short.txt");
  yaml.replace(yaml.find("  validation_every"), 18, "  context: 16\n  validation_every");
  EXPECT_THAT(error_of([&] { train(yaml, "a/b/out"); }), HasSubstr("short.txt"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a"));
  // What was there before stays.
  std::filesystem::create_directories(folder_ / "there");
  write_file_atomically(folder_ / "there/mine.txt", "mine");
  EXPECT_THAT(error_of([&] { train(yaml, "there"); }), HasSubstr("short.txt"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "there"), {}), 1);
  EXPECT_THAT(error_of([&] { train(yaml, "none", 0, true); }),
              AllOf(HasSubstr("none/checkpoint.safetensors"), HasSubstr("no checkpoint")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "none"));
  // Before the texts are tokenized: a file that isn't there, and patterns of no tensor.
  std::string missing = yaml;
  missing.replace(missing.find("short.txt"), 9, "nosuch.txt");
  write_file_atomically(folder_ / "train.txt", "");  // which would be an error of its own
  EXPECT_THAT(error_of([&] { train(missing, "out"); }), HasSubstr("nosuch.txt"));
  std::string frozen = yaml;
  frozen.replace(frozen.find("run: {"), 6, "run: {freeze: [no.such], ");
  EXPECT_THAT(error_of([&] { train(frozen, "out"); }), HasSubstr("no.such"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

TEST_F(Lm, StoppedBeforeTheFirstStep) {
  const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
  const std::atomic<bool> cancelled{true};
  TrainOptions options;
  options.output = folder_ / "out";
  options.cancelled = &cancelled;
  EXPECT_THROW(Trainer(recipe(kPlain), *backend, options), StoppedAtStart);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

}  // namespace
}  // namespace reprise::test
