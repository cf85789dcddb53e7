// Phantom Optimization against golden/phantom/po (the paper's formula in float64): loss, margins
// and gradients with respect to the logits.
#include "train/objectives/preference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise {
namespace {

class Preference : public testing::Test {
 protected:
  void SetUp() override {
    be_ = test::recording_torch();
    if (!be_) GTEST_SKIP() << "the torch backend is not built";
  }

  // A leaf of the graph, so that its gradient can be read.
  Tensor leaf(const std::vector<float>& values, Shape shape) {
    HostTensor source;
    source.shape = std::move(shape);
    source.bytes = std::as_bytes(std::span(values));
    const Tensor tensor = be_->bind(source, WeightUse::Vector);
    be_->set_trainable(tensor, true);
    return tensor;
  }
  std::unique_ptr<TrainBackend> be_;
};

// The file's rows as one batch: answer b of `chosen`, then answer b of `rejected`. Logits at
// position t - 1 predict label t, so the last position predicts nothing.
struct PoBatch {
  explicit PoBatch(const WeightFile& file) {
    const Shape shape = file.get("chosen.logits").shape;
    rows = shape[0], length = shape[1], vocab = shape[2];
    const std::vector<float> logits_of[] = {to_floats(file.get("chosen.logits")),
                                            to_floats(file.get("rejected.logits"))};
    const std::vector<int64_t> labels_of[] = {to_ints(file.get("chosen.labels")),
                                              to_ints(file.get("rejected.labels"))};
    for (int64_t b = 0; b < rows; ++b) {
      for (int side = 0; side < 2; ++side) {
        answers.push_back({static_cast<int64_t>(targets.size()), length, side == 1});
        const auto from = logits_of[side].begin() + b * length * vocab;
        logits.insert(logits.end(), from, from + length * vocab);
        for (int64_t t = 1; t <= length; ++t)
          targets.push_back(
              t == length
                  ? -100
                  : static_cast<int32_t>(labels_of[side][static_cast<size_t>(b * length + t)]));
      }
    }
  }
  // Gradients of the batch's logits in the file's order.
  std::vector<float> side(const std::vector<float>& all, int which) const {
    std::vector<float> out;
    for (int64_t b = 0; b < rows; ++b) {
      const auto from = all.begin() + (2 * b + which) * length * vocab;
      out.insert(out.end(), from, from + length * vocab);
    }
    return out;
  }
  int64_t rows = 0, length = 0, vocab = 0;
  std::vector<float> logits;
  std::vector<int32_t> targets;
  std::vector<AnswerTargets> answers;
};

TEST_F(Preference, LossAndGradientsAreTheGoldenOnes) {
  const WeightFile file =
      open_safetensors(test::data_dir() / "golden/phantom/po/po.safetensors").weights;
  const PoBatch batch(file);
  const auto counted = std::count_if(batch.answers.begin(), batch.answers.end(),
                                     [](const auto& a) { return a.rejected; });
  EXPECT_EQ(counted, 3);
  int64_t right = 0;
  for (const AnswerTargets& answer : batch.answers)
    for (int64_t i = 0; !answer.rejected && i < answer.count; ++i)
      right += batch.targets[static_cast<size_t>(answer.first + i)] != -100;

  for (const bool with_sft : {false, true}) {
    SCOPED_TRACE(with_sft ? "sft + po" : "po");
    const Tensor logits = leaf(batch.logits, {2 * batch.rows * batch.length, batch.vocab});
    const AnswerLoss parts = answer_loss(*be_, logits, batch.targets, batch.answers, {2, 0.5});
    const std::vector<float> margins = be_->to_host(parts.margins);
    EXPECT_LE(test::distance(margins, to_floats(file.get("margin"))), 2e-5);
    const Tensor sft = be_->scale(parts.sft, 1.0f / static_cast<float>(right));
    const Tensor po = be_->scale(parts.preference, 1.0f / static_cast<float>(batch.rows));
    EXPECT_NEAR(be_->to_host(sft)[0], to_floats(file.get("sft_token_mean"))[0], 2e-6);
    EXPECT_NEAR(be_->to_host(po)[0], to_floats(file.get("po"))[0], 2e-6);
    const Tensor loss = with_sft ? be_->add(sft, po) : po;
    if (with_sft) {
      EXPECT_NEAR(be_->to_host(loss)[0], to_floats(file.get("loss"))[0], 2e-6);
    }
    be_->backward(loss);
    const std::vector<float> gradient = be_->gradient(logits);
    for (const int side : {0, 1}) {
      const std::string name =
          std::string(with_sft ? "grad_loss." : "grad_po.") + (side == 0 ? "chosen" : "rejected");
      const std::vector<float> expected = to_floats(file.get(name));
      float largest = 0;
      for (float value : expected) largest = std::max(largest, std::abs(value));
      EXPECT_GT(largest, 0);
      EXPECT_LE(test::distance(batch.side(gradient, side), expected), 2e-5 * largest) << name;
    }
  }
}

TEST_F(Preference, ExtremeMarginsStayFinite) {
  // A right answer with probability e^-1000, a wrong one that is certain: -log sigmoid(x) is -x.
  const Tensor logits = leaf({0, 1000, 0, 1000}, {2, 2});
  const std::vector<int32_t> targets = {0, 1};
  const std::vector<AnswerTargets> answers = {{0, 1, false}, {1, 1, true}};
  const AnswerLoss parts = answer_loss(*be_, logits, targets, answers, {2, 0.5});
  EXPECT_NEAR(be_->to_host(parts.preference)[0], 2000.5, 1e-2);
  be_->backward(parts.preference);
  const std::vector<float> gradient = be_->gradient(logits);
  EXPECT_NEAR(gradient[0], -2, 1e-4);
  EXPECT_NEAR(gradient[1], 2, 1e-4);
}

TEST_F(Preference, WithoutPairsItIsTheOrdinaryLoss) {
  const Tensor logits = leaf({1, 2, 3, 4, 0, 0}, {2, 3});
  const std::vector<int32_t> targets = {2, 0};
  const std::vector<AnswerTargets> answers = {{0, 2, false}};
  const AnswerLoss parts = answer_loss(*be_, logits, targets, answers, {});
  EXPECT_FALSE(parts.preference);
  EXPECT_EQ(be_->to_host(parts.sft), be_->to_host(be_->cross_entropy_sum(logits, targets)));
}

}  // namespace
}  // namespace reprise
