// The training loop on the torch backend, with the smallest TroL there is.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "base/error.h"
#include "base/file.h"
#include "engine/engine.h"
#include "engine/trace.h"
#include "support/paths.h"
#include "train/checkpoint.h"

namespace reprise {
namespace {

using testing::HasSubstr;

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch_plugin_path()) GTEST_SKIP() << "the torch backend is not built";
    folder_ = std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    BackendOptions options;
    options.threads = 1;
    backend_ = make_torch_backend(options);
    // The embedded model's recipe, made small.
    const auto source = test::source_dir() / "recipes/tiny-trol";
    Json config = load_json(source / "config.json");
    config["llm_config"]["num_hidden_layers"] = 1;
    config["llm_config"]["hidden_size"] = 32;
    config["llm_config"]["intermediate_size"] = 48;
    config["vision_config"]["num_hidden_layers"] = 1;
    config["vision_config"]["hidden_size"] = 32;
    config["vision_config"]["intermediate_size"] = 48;
    write_file_atomically(folder_ / "config.json", config.dump());
    recipe_.path = folder_ / "recipe.yaml";
    recipe_.config = folder_ / "config.json";
    recipe_.tokenizer = source / "tokenizer.json";
    recipe_.init_std = 0.1;
    recipe_.train.push_back({});
    recipe_.train[0].generator = "easy-vqa";
    recipe_.steps = 6;
    recipe_.batch = 2;
    recipe_.accumulate = 2;
    recipe_.questions_per_image = 3;
    recipe_.optimizer.lr = 3e-3;
    recipe_.log_every = 1;
  }

  std::vector<double> losses(const std::string& out, int64_t stop_after, bool resume) {
    std::vector<double> seen;
    TrainOptions options;
    options.output = folder_ / out;
    options.stop_after = stop_after;
    options.resume = resume;
    options.progress = [&](const StepReport& report) { seen.push_back(report.loss); };
    Trainer trainer(recipe_, *backend_, options);
    trainer.run();
    return seen;
  }

  std::filesystem::path folder_;
  std::unique_ptr<TrainBackend> backend_;
  Recipe recipe_;
};

TEST_F(TrainerTest, ResumedRunsComputeTheSameLosses) {
  const std::vector<double> whole = losses("whole", 0, false);
  std::vector<double> parts = losses("parts", 3, false);
  const std::vector<double> rest = losses("parts", 0, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  ASSERT_EQ(whole.size(), 6u);
  EXPECT_EQ(whole, parts);
  const Checkpoint a = read_checkpoint(folder_ / "whole/checkpoint.safetensors");
  const Checkpoint b = read_checkpoint(folder_ / "parts/checkpoint.safetensors");
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_EQ(a.weights[i].values, b.weights[i].values) << a.weights[i].name;
    EXPECT_EQ(a.weights[i].adam.v, b.weights[i].adam.v) << a.weights[i].name;
  }
  EXPECT_EQ(read_file(folder_ / "whole/plot.svg").substr(0, 4), "<svg");
  EXPECT_EQ(read_log(folder_ / "parts/log.jsonl", 100).size(), 6u);
}

TEST_F(TrainerTest, LearnsWhatItIsShown) {
  recipe_.steps = 60;
  recipe_.optimizer.warmup_steps = 5;
  const std::vector<double> seen = losses("learns", 0, false);
  double late = 0;
  for (size_t i = 50; i < 60; ++i) late += seen[i] / 10;
  EXPECT_NEAR(seen[0], std::log(355), 2.5);  // nothing known: near ln(vocabulary)
  EXPECT_LT(late, 0.4 * seen[0]);
}

TEST_F(TrainerTest, PreferenceTrainingLearnsAndResumesExactly) {
  recipe_.preference = true;
  recipe_.train[0].wrong_answers = "easy-vqa";
  const std::vector<double> whole = losses("whole", 0, false);
  std::vector<double> parts = losses("parts", 2, false);
  const std::vector<double> rest = losses("parts", 0, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, parts);
  const std::vector<StepReport> log = read_log(folder_ / "whole/log.jsonl", 100);
  ASSERT_EQ(log.size(), 6u);
  for (const StepReport& report : log) {
    ASSERT_TRUE(report.preference_loss && report.preferred);
    EXPECT_GT(*report.preference_loss, 0);
    EXPECT_GT(report.loss, *report.preference_loss);
  }
}

TEST_F(TrainerTest, FrozenWeightsStayAsTheyAre) {
  recipe_.freeze = {"vision_model.*", "*.mlp.*"};
  losses("frozen", 0, false);
  const Checkpoint checkpoint = read_checkpoint(folder_ / "frozen/checkpoint.safetensors");
  for (const CheckpointEntry& entry : checkpoint.weights) {
    EXPECT_FALSE(matches_pattern("vision_model.*", entry.name)) << entry.name;
    EXPECT_FALSE(matches_pattern("*.mlp.*", entry.name)) << entry.name;
    EXPECT_GT(entry.adam.step, 0) << entry.name;
  }
  EXPECT_GT(checkpoint.weights.size(), 5u);
  recipe_.freeze = {"no.such.tensor"};
  TrainOptions options;
  options.output = folder_ / "wrong";
  EXPECT_THAT([&] { Trainer(recipe_, *backend_, options); },
              testing::ThrowsMessage<Error>(HasSubstr("no.such.tensor")));
}

TEST_F(TrainerTest, TheModelFileAnswersOnTheCpuAsTheTrainerWould) {
  losses("model", 0, false);
  TraceInputs inputs;
  inputs.where = "test";
  inputs.ids = {20, 30, 40, 50, 60};
  std::vector<std::vector<float>> logits;
  for (const char* backend : {"cpu", "torch"}) {
    EngineOptions options;
    options.model = folder_ / "model/model.gguf";
    options.backend = backend;
    const auto engine = Engine::load(options);
    EXPECT_GT(engine->tokenizer().vocab_size(), 300);
    for (const TensorView& tensor : trace(*engine, inputs, {}))
      if (tensor.name == "logits") logits.push_back(to_floats(tensor));
  }
  ASSERT_EQ(logits.size(), 2u);
  for (size_t i = 0; i < logits[0].size(); ++i) EXPECT_NEAR(logits[0][i], logits[1][i], 2e-4);
}

TEST_F(TrainerTest, RefusesToOverwriteAndToResumeFromNothing) {
  recipe_.steps = 1;
  losses("run", 0, false);
  EXPECT_THAT([&] { losses("run", 0, false); },
              testing::ThrowsMessage<Error>(HasSubstr("--resume")));
  EXPECT_THAT([&] { losses("empty", 0, true); },
              testing::ThrowsMessage<Error>(HasSubstr("no checkpoint")));
  write_file_atomically(folder_ / "run/checkpoint.safetensors", "damaged");
  EXPECT_THAT([&] { losses("run", 0, true); },
              testing::ThrowsMessage<Error>(HasSubstr("checkpoint.safetensors")));
}

TEST(InitialValues, DependOnTheNameAlone) {
  TensorSlot slot{"a.weight", {4, 8}, WeightUse::Matrix, Role::Mlp, nullptr};
  const std::vector<float> first = initial_values(slot, 0.02, 1);
  EXPECT_EQ(first, initial_values(slot, 0.02, 1));
  slot.name = "b.weight";
  EXPECT_NE(first, initial_values(slot, 0.02, 1));
  TensorSlot norm{"norm.weight", {8}, WeightUse::Vector, Role::Norm, nullptr};
  EXPECT_EQ(initial_values(norm, 0.02, 1), std::vector<float>(8, 1.0f));
  TensorSlot bias{"x.bias", {8}, WeightUse::Vector, Role::Bias, nullptr};
  EXPECT_EQ(initial_values(bias, 0.02, 1), std::vector<float>(8, 0.0f));
}

}  // namespace
}  // namespace reprise
