// The seam between the loop and what is minimised, with an objective of the test's own that has a
// term at every exit of a recursive model.
#include "train/objectives/objective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "support/golden.h"
#include "support/tiny_models.h"
#include "train/forward.h"
#include "train/loop/gradients.h"

namespace reprise {
namespace {

constexpr int kLoops = 3;

// Cross entropy at exit i, counted i / sum of i.
class AtEveryExit : public Objective {
 public:
  AtEveryExit() {
    constexpr double kSum = kLoops * (kLoops + 1) / 2;
    for (int i = 1; i <= kLoops; ++i) terms_.push_back({fmt::format("exit.{}", i - 1), i / kSum});
  }
  ObjectiveNeeds needs() const override { return {.exits = true}; }
  std::span<const LossTerm> terms() const override { return terms_; }
  std::vector<int64_t> items(const Batch& batch) const override {
    return std::vector<int64_t>(kLoops, batch.right_targets());
  }
  BatchLoss loss(Model& model, TrainBackend& backend, const Batch& batch,
                 const Model::Results& forward) override {
    EXPECT_EQ(forward.exits.size(), size_t{kLoops});
    BatchLoss loss;
    for (const Tensor& state : forward.exits)
      loss.sums.push_back(
          backend.cross_entropy_sum(target_logits(model, batch, state), batch.targets));
    loss.measures.push_back({"targets", 0, static_cast<double>(batch.targets.size())});
    return loss;
  }

 private:
  std::vector<LossTerm> terms_;
};

// Batch i: a text of 5 + i tokens, of which all but the first are to be predicted.
class Texts : public BatchSource {
 public:
  Batch next() override {
    Batch batch;
    const int64_t n = 5 + next_++;
    batch.rows.segments.push_back({nullptr, 0, n, n, -1});
    for (int64_t i = 0; i < n; ++i) {
      batch.rows.positions.push_back(static_cast<int32_t>(i));
      batch.ids.push_back(static_cast<int32_t>((7 * i + n) % 40));
      batch.target_rows.push_back(static_cast<int32_t>(i));
      batch.targets.push_back(static_cast<int32_t>((7 * (i + 1) + n) % 40));
    }
    batch.answers.push_back({0, n, false});
    return batch;
  }
  std::string position() const override { return std::to_string(next_); }
  void seek(const std::string& position, const std::string&) override {
    next_ = std::stoll(position);
  }
  int64_t validation_size() const override { return 0; }
  Batch validation(int64_t, int64_t) const override { return {}; }

 private:
  int64_t next_ = 0;
};

class ObjectiveSeam : public testing::Test {
 protected:
  void SetUp() override {
    be_ = test::recording_torch();
    if (!be_) GTEST_SKIP() << "the torch backend is not built";
    Json config = test::tiny_text_config("LlamaForCausalLM");
    config["reprise"] = {{"scheme", "recursive"},
                         {"recursive", {{"loops", kLoops}, {"lora_rank", 2}}}};
    model_ = test::tiny_model(config, *be_);
    plan_ = model_->prefill_plan();
    weights_ = choose_weights(recipe_, *model_, *be_);
  }
  StepReport gradients(Objective& objective, int64_t calls) {
    recipe_.accumulate = calls;
    Texts texts;
    TrainRun run{recipe_, *be_, *model_, plan_, weights_, objective, texts};
    std::vector<Batch> batches = next_batches(run);
    return compute_gradients(run, 0, batches);
  }

  std::unique_ptr<TrainBackend> be_;
  std::unique_ptr<Model> model_;
  Plan plan_;
  Recipe recipe_;
  TrainedWeights weights_;
};

TEST_F(ObjectiveSeam, ExitsAreTheStatesAtTheLoopsEnds) {
  const Batch batch = Texts().next();
  const Model::Results with = run_forward(*model_, plan_, batch, /*exits=*/true);
  const Model::Results without = run_forward(*model_, plan_, batch);
  ASSERT_EQ(with.exits.size(), size_t{kLoops});
  EXPECT_TRUE(without.exits.empty());
  EXPECT_EQ(be_->to_host(with.state), be_->to_host(without.state));
  EXPECT_EQ(be_->to_host(with.exits.back()), be_->to_host(with.state));
  EXPECT_NE(be_->to_host(with.exits[0]), be_->to_host(with.exits[1]));
  // An exit is what the plan gives when it ends there.
  Plan shorter = plan_;
  const auto end = std::ranges::find_if(
      shorter.steps, [](const Step& step) { return std::holds_alternative<LoopEnd>(step.op); });
  shorter.steps.erase(end + 1, shorter.steps.end());
  EXPECT_EQ(be_->to_host(run_forward(*model_, shorter, batch).state), be_->to_host(with.exits[0]));
}

TEST_F(ObjectiveSeam, TheLossIsTheWeightedSumOfMeansOverTheStep) {
  AtEveryExit objective;
  const StepReport report = gradients(objective, 3);
  EXPECT_EQ(report.tokens, 5 + 6 + 7);
  ASSERT_EQ(report.values.size(), size_t{kLoops} + 1);
  EXPECT_DOUBLE_EQ(report.values.at("targets"), 1);
  double sum = 0;
  for (int i = 1; i <= kLoops; ++i)
    sum += i / 6.0 * report.values.at(fmt::format("exit.{}", i - 1));
  EXPECT_NEAR(report.loss, sum, 1e-5);
  // Means over the step, not over the calls: as if the texts stood in one call.
  double last = 0;
  Texts texts;
  for (int i = 0; i < 3; ++i) {
    const Batch batch = texts.next();
    const Tensor state = run_forward(*model_, plan_, batch).state;
    last += be_->to_host(
        be_->cross_entropy_sum(target_logits(*model_, batch, state), batch.targets))[0];
  }
  EXPECT_NEAR(report.values.at("exit.2"), last / 18, 1e-5);
}

// Every exit's term reaches the weights: the first loop's adapters get another gradient than from
// the last exit alone.
TEST_F(ObjectiveSeam, TermsAtExitsHaveGradients) {
  AtEveryExit every;
  gradients(every, 1);
  std::vector<std::vector<float>> all;
  for (const Tensor& weight : weights_.trainable) all.push_back(be_->gradient(weight));
  Recipe sft;
  const auto last = make_objective(sft, *be_, {*model_});
  EXPECT_EQ(last->needs().exits, false);
  const StepReport report = gradients(*last, 1);
  EXPECT_TRUE(report.values.empty());
  size_t differ = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<float> one = be_->gradient(weights_.trainable[i]);
    EXPECT_TRUE(std::ranges::any_of(one, [](float x) { return x != 0; })) << weights_.all[i].name;
    differ += one != all[i];
  }
  EXPECT_EQ(differ, all.size());
}

TEST(Objectives, AreChosenByName) {
  EXPECT_EQ(objective_names(), "sft, sft+po, lm");
  EXPECT_EQ(find_objective("po"), nullptr);
  for (const ObjectiveKind& kind : objective_kinds()) EXPECT_EQ(find_objective(kind.name), &kind);
}

}  // namespace
}  // namespace reprise
