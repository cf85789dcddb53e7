// The training loop on the torch backend, with the smallest TroL there is.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/factory.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pattern.h"
#include "engine/loaded_model.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"
#include "support/slow_tokenizers.h"
#include "support/tiny_models.h"
#include "support/tokenizers.h"
#include "support/torch_device.h"
#include "trace/trace.h"
#include "train/loop/checkpoint.h"
#include "train/loop/log.h"

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
    options.device = test::torch_device();
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
  EXPECT_EQ(a.data, "12") << "forward calls: 6 steps of 2";
  EXPECT_EQ(b.data, a.data);
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
  recipe_.loss = "sft+po";
  recipe_.train[0].wrong_answers = "easy-vqa";
  const std::vector<double> whole = losses("whole", 0, false);
  std::vector<double> parts = losses("parts", 2, false);
  const std::vector<double> rest = losses("parts", 0, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, parts);
  const std::vector<StepReport> log = read_log(folder_ / "whole/log.jsonl", 100);
  ASSERT_EQ(log.size(), 6u);
  for (const StepReport& report : log) {
    ASSERT_TRUE(report.values.contains("preferred"));
    const double preference = report.values.at("preference_loss");
    EXPECT_GT(preference, 0);
    EXPECT_GT(report.loss, preference);
  }
}

TEST_F(TrainerTest, AdaptersOnFewBitsLearnAndResumeExactly) {
  recipe_.init_std = 0.3;
  recipe_.train_only = {"vision_proj.*", "trol_gating.*"};
  recipe_.lora = LoraRecipe{.rank = 4, .alpha = 8, .dropout = 0.1, .targets = {"language_model.*"}};
  recipe_.quantize = QuantizeRecipe{
      .type = "nf4", .double_quantization = true, .targets = {"language_model.model.layers.*"}};
  recipe_.gradient_checkpointing = true;
  recipe_.loss = "sft+po";
  recipe_.train[0].wrong_answers = "easy-vqa";
  const std::vector<double> whole = losses("whole", 0, false);
  std::vector<double> parts = losses("parts", 3, false);
  const std::vector<double> rest = losses("parts", 0, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, parts);

  // The checkpoint holds what is trained and nothing else; every adapter moved away from zero.
  const Checkpoint a = read_checkpoint(folder_ / "whole/checkpoint.safetensors");
  const Checkpoint b = read_checkpoint(folder_ / "parts/checkpoint.safetensors");
  ASSERT_EQ(a.weights.size(), b.weights.size());
  int adapters = 0;
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_EQ(a.weights[i].values, b.weights[i].values) << a.weights[i].name;
    if (!a.weights[i].name.ends_with("lora_B.weight")) continue;
    ++adapters;
    EXPECT_TRUE(std::any_of(a.weights[i].values.begin(), a.weights[i].values.end(),
                            [](float value) { return value != 0; }))
        << a.weights[i].name;
  }
  EXPECT_EQ(adapters, 7);  // q k v o gate up down of one layer
  const std::string log = read_file(folder_ / "whole/quantization.jsonl");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 7);
  EXPECT_THAT(log, HasSubstr("relative_rms"));

  // Other frozen weights are another run's.
  recipe_.init_std = 0.4;
  EXPECT_THAT([&] { losses("parts", 0, true); },
              testing::ThrowsMessage<Error>(HasSubstr("frozen weights")));
}

TEST_F(TrainerTest, AdaptersAreMergedOrStoredBeside) {
  recipe_.steps = 3;
  recipe_.train_only = {"vision_proj.*"};
  recipe_.lora = LoraRecipe{.rank = 2, .alpha = 4, .targets = {"*.mlp.*_proj.weight"}};
  losses("merged", 0, false);
  recipe_.lora->merged = false;
  losses("beside", 0, false);
  const WeightFile merged = open_gguf(folder_ / "merged/model.gguf").weights;
  const WeightFile beside = open_gguf(folder_ / "beside/model.gguf").weights;
  const WeightFile adapters = open_safetensors(folder_ / "beside/adapters.safetensors").weights;
  EXPECT_EQ(adapters.tensors().size(), 6u);
  const std::string name = "language_model.model.layers.0.mlp.up_proj";
  const std::vector<float> base = to_floats(beside.get(name + ".weight"));
  const std::vector<float> a = to_floats(adapters.get(name + ".lora_A.weight"));
  const std::vector<float> b = to_floats(adapters.get(name + ".lora_B.weight"));
  const std::vector<float> found = to_floats(merged.get(name + ".weight"));
  const size_t in = 32, rank = 2;
  for (size_t i = 0; i < found.size(); ++i) {
    float sum = 0;
    for (size_t r = 0; r < rank; ++r) sum += b[i / in * rank + r] * a[r * in + i % in];
    EXPECT_NEAR(found[i], base[i] + 2 * sum, 1e-6);
  }
  // A run may begin with stored adapters: its first loss is that of the merged model.
  recipe_.lora->from = folder_ / "beside/adapters.safetensors";
  const double stored = losses("stored", 1, false)[0];
  recipe_.lora.reset();
  recipe_.from = folder_ / "merged/model.gguf";
  recipe_.config.clear();
  EXPECT_GT(stored, 0);
  losses("goes-on", 1, false);  // a merged model trains on like any other
}

TEST_F(TrainerTest, WrongAdaptersAreRefused) {
  recipe_.lora = LoraRecipe{.rank = 2, .alpha = 4, .targets = {"no.such.*"}};
  recipe_.train_only = {"vision_proj.*"};
  EXPECT_THAT([&] { losses("a", 0, false); },
              testing::ThrowsMessage<Error>(HasSubstr("lora.targets")));
  recipe_.lora->targets = {"vision_proj.*"};
  EXPECT_THAT([&] { losses("b", 0, false); },
              testing::ThrowsMessage<Error>(HasSubstr("is trained itself")));
  recipe_.lora.reset();
  recipe_.quantize = QuantizeRecipe{.type = "int8", .targets = {"vision_proj.*"}};
  EXPECT_THAT([&] { losses("c", 0, false); },
              testing::ThrowsMessage<Error>(HasSubstr("quantize.targets")));
}

TEST_F(TrainerTest, ATimeBudgetEndsTheRunWithAModel) {
  recipe_.steps = 1000000;
  recipe_.minutes = 0.02;
  EXPECT_LT(losses("short", 0, false).size(), 100000u);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "short/model.gguf"));
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
  TokenInputs inputs;
  inputs.where = "test";
  inputs.ids = {20, 30, 40, 50, 60};
  std::vector<std::vector<float>> logits;
  for (const char* backend : {"cpu", "torch"}) {
    LoadedModelOptions options;
    options.model = folder_ / "model/model.gguf";
    options.backend = backend;
    if (options.backend == "torch") options.compute.device = test::torch_device();
    const auto loaded = LoadedModel::load(options);
    EXPECT_GT(loaded->tokenizer().vocab_size(), 300);
    for (const TensorView& tensor : trace(*loaded, inputs, {}))
      if (tensor.name == "logits") logits.push_back(to_floats(tensor));
  }
  ASSERT_EQ(logits.size(), 2u);
  for (size_t i = 0; i < logits[0].size(); ++i) EXPECT_NEAR(logits[0][i], logits[1][i], 2e-4);
}

// A folder as the TroL-1.8B release: SentencePiece, no chat format and no picture token in the
// config, adapters at image tokens; conversations with pictures as data.
class ReleaseTraining : public TrainerTest {
 protected:
  void SetUp() override {
    TrainerTest::SetUp();
    if (IsSkipped()) return;
    Json config = load_json(test::golden_root() / "trol/internlm2-clip/model/config.json");
    config["vocab_size"] = 700;
    config["num_hidden_layers"] = 1;
    config["vision_config"]["num_hidden_layers"] = 1;
    config.erase("image_token_index");
    write_file_atomically(folder_ / "config.json", config.dump());
    std::filesystem::create_directories(folder_ / "tokenizer");
    test::write_tokenizer_files(test::slow_tokenizer_files("trol-internlm2"),
                                folder_ / "tokenizer");
    recipe_.tokenizer = folder_ / "tokenizer";
    const Json messages = {
        {{"role", "user"}, {"content", "what is this?"}, {"images", {"circle.png"}}},
        {{"role", "assistant"}, {"content", "a circle"}},
        {{"role", "user"}, {"content", "and this?"}, {"images", {"triangle.png"}}},
        {{"role", "assistant"}, {"content", "a triangle"}}};
    write_file_atomically(folder_ / "data.jsonl",
                          Json{{"messages", messages}, {"rejected", "a circle"}}.dump() + "\n");
    recipe_.train[0] = {};
    recipe_.train[0].file = folder_ / "data.jsonl";
    recipe_.train[0].images = test::source_dir() / "models/demo";
    recipe_.loss = "sft+po";
  }
};

TEST_F(ReleaseTraining, WhatIsTrainedAnswersAndTrainsOn) {
  const std::vector<double> seen = losses("first", 0, false);
  EXPECT_LT(seen.back(), seen.front());
  LoadedModelOptions options;
  options.model = folder_ / "first/model.gguf";
  const auto loaded = LoadedModel::load(options);
  EXPECT_EQ(loaded->chat_format()->name, "trol-internlm2");
  EXPECT_EQ(loaded->tokenizer().vocab_size(), 700);
  const auto expected = tokenizer_from_files(test::slow_tokenizer_files("trol-internlm2"));
  EXPECT_EQ(loaded->tokenizer().encode("what is this?"), expected->encode("what is this?"));
  // The exported file has all that a run needs.
  recipe_.config.clear();
  recipe_.tokenizer.clear();
  recipe_.from = folder_ / "first/model.gguf";
  const std::vector<double> goes_on = losses("second", 2, false);
  EXPECT_LT(goes_on.front(), seen.front());
}

TEST_F(ReleaseTraining, TheModelsOwnAdaptersTrainWithDropout) {
  recipe_.init_std = 0.3;
  const std::vector<double> without = losses("without", 1, false);
  recipe_.adapter_dropout = 0.5;
  const std::vector<double> whole = losses("whole", 4, false);
  EXPECT_NE(whole[0], without[0]) << "the same weights, some inputs of adapters dropped";
  std::vector<double> parts = losses("parts", 2, false);
  const std::vector<double> rest = losses("parts", 4, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, parts) << "what is dropped follows from seed and step";
  // Only at image tokens are there adapters.
  write_file_atomically(folder_ / "data.jsonl",
                        R"({"question": "what is this?", "answer": "a", "rejected": "b"})");
  const std::vector<double> text = losses("text", 1, false);
  recipe_.adapter_dropout = 0;
  EXPECT_EQ(losses("text without", 1, false), text);
}

// A language model without any image code, on conversations without pictures.
class TextTraining : public TrainerTest {
 protected:
  void SetUp() override {
    TrainerTest::SetUp();
    if (IsSkipped()) return;
    const test::TinyShape shape = {
        .d = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 48, .vocab = 355, .layers = 2};
    write_file_atomically(folder_ / "config.json",
                          test::tiny_text_config("LlamaForCausalLM", shape).dump());
    const auto line = [](const char* question, const char* answer) {
      const Json messages = {{{"role", "user"}, {"content", question}},
                             {{"role", "assistant"}, {"content", answer}},
                             {{"role", "user"}, {"content", "is it red?"}},
                             {{"role", "assistant"}, {"content", "no"}}};
      return Json{{"messages", messages}}.dump() + "\n";
    };
    write_file_atomically(folder_ / "data.jsonl",
                          line("what shape is it?", "a circle") + line("and this?", "a triangle") +
                              R"({"question": "is there a circle?", "answer": "yes"})");
    recipe_.chat_format = "plain-qa";
    recipe_.train[0] = {};
    recipe_.train[0].file = recipe_.validation = folder_ / "data.jsonl";
    recipe_.validation_every = 20;
    recipe_.steps = 40;
    recipe_.optimizer.lr = 1e-2;
  }
};

TEST_F(TextTraining, LearnsResumesAndAnswers) {
  const std::vector<double> whole = losses("whole", 0, false);
  EXPECT_NEAR(whole.front(), std::log(355), 2);
  EXPECT_LT(whole.back(), 0.3 * whole.front());
  std::vector<double> parts = losses("parts", 15, false);
  const std::vector<double> rest = losses("parts", 0, true);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(whole, parts);
  const std::vector<StepReport> log = read_log(folder_ / "whole/log.jsonl", 100);
  ASSERT_EQ(log.size(), 40u);
  ASSERT_TRUE(log[19].validation_loss && log[39].validation_loss && log[39].validation_exact);
  EXPECT_LT(*log[39].validation_loss, *log[19].validation_loss);
  LoadedModelOptions options;
  options.model = folder_ / "whole/model.gguf";
  const auto loaded = LoadedModel::load(options);
  EXPECT_EQ(loaded->chat_format()->name, "plain-qa");
  EXPECT_EQ(loaded->model().vision(), nullptr);
}

TEST_F(TextTraining, PicturesAreRefusedBeforeTheFirstStep) {
  recipe_.train[0].images = test::source_dir() / "models/demo";
  write_file_atomically(folder_ / "data.jsonl",
                        R"({"image": "circle.png", "question": "what?", "answer": "a circle"})");
  EXPECT_THAT([&] { losses("run", 1, false); },
              testing::ThrowsMessage<Error>(
                  testing::AllOf(HasSubstr("data.jsonl"), HasSubstr("no vision tower"))));
  recipe_.chat_format.clear();
  EXPECT_THAT([&] { losses("run", 1, false); },
              testing::ThrowsMessage<Error>(HasSubstr("model.chat_format")));
}

TEST_F(TrainerTest, TheRecipesChatFormatGoesIntoTheModelFile) {
  recipe_.steps = 1;
  recipe_.chat_format = "chatml-image";
  losses("format", 0, false);
  LoadedModelOptions options;
  options.model = folder_ / "format/model.gguf";
  EXPECT_EQ(LoadedModel::load(options)->chat_format()->name, "chatml-image");
}

TEST_F(TrainerTest, AResumeWithAnotherRecipeIsRefused) {
  losses("run", 2, false);
  recipe_.batch = 3;
  recipe_.optimizer.lr = 1e-3;
  EXPECT_THAT([&] { losses("run", 0, true); },
              testing::ThrowsMessage<Error>(testing::AllOf(
                  HasSubstr("run.batch: 2, now 3"), HasSubstr("optimizer.lr: 0.003, now 0.001"),
                  testing::Not(HasSubstr("run.seed")))));
  recipe_.batch = 2;
  recipe_.optimizer.lr = 3e-3;
  recipe_.steps = 1;
  EXPECT_THAT([&] { losses("run", 0, true); },
              testing::ThrowsMessage<Error>(HasSubstr("2 steps are done, the recipe has 1")));
  recipe_.steps = 3;  // a run may become longer or shorter
  EXPECT_EQ(losses("run", 0, true).size(), 1u);
  // What the recipe names is others' now.
  Json config = load_json(folder_ / "config.json");
  config["llm_config"]["rms_norm_eps"] = 1e-2;
  write_file_atomically(folder_ / "config.json", config.dump());
  recipe_.steps = 4;
  EXPECT_THAT([&] { losses("run", 0, true); },
              testing::ThrowsMessage<Error>(HasSubstr("another 'model.config' of")));
}

TEST_F(TrainerTest, ADivergedRunLeavesNoCheckpointOfIt) {
  recipe_.steps = 1;
  recipe_.optimizer.lr = 3e38;
  recipe_.optimizer.weight_decay = 1000;
  EXPECT_THAT([&] { losses("run", 0, false); },
              testing::ThrowsMessage<Error>(HasSubstr("is NaN or infinite at step 1")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run/checkpoint.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run/model.gguf"));
}

TEST_F(TrainerTest, ABatchThatTrainsNothingIsNoError) {
  Json config = load_json(folder_ / "config.json");
  config["reprise"]["trol"] = {{"passes", 1}};  // no gate, whose gradient would be all there is
  write_file_atomically(folder_ / "config.json", config.dump());
  write_file_atomically(folder_ / "text.jsonl", R"({"question": "is it?", "answer": "yes"})");
  recipe_.train[0] = {};
  recipe_.train[0].file = folder_ / "text.jsonl";  // no picture, so the projector has no part in it
  recipe_.train_only = {"vision_proj.*"};
  recipe_.steps = 2;
  EXPECT_EQ(losses("run", 0, false).size(), 2u);
}

TEST_F(TrainerTest, WrongDataIsFoundBeforeTheFirstStep) {
  recipe_.train.push_back({});
  recipe_.train[1].file = folder_ / "data.jsonl";
  recipe_.train[1].weight = 1e-9;  // hardly ever drawn
  recipe_.train[1].wrong_answers = "easy-vqa";
  recipe_.loss = "sft+po";
  recipe_.train[0].wrong_answers = "easy-vqa";
  const auto refused = [&](const std::string& line, const std::string& reason) {
    write_file_atomically(folder_ / "data.jsonl",
                          "{\"question\": \"is it?\", \"answer\": \"yes\"}\n" + line);
    EXPECT_THAT([&] { losses("run", 1, false); }, testing::ThrowsMessage<Error>(testing::AllOf(
                                                      HasSubstr("data.jsonl"), HasSubstr(reason))));
  };
  refused(R"({"question": "what?", "answer": "a boat"})", "no wrong answer is known");
  refused(R"({"question": "what <image>?", "answer": "yes"})", "the picture's placeholder itself");
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
