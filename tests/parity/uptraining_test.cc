// Uptraining of recursive models against golden/rrt: every loss with its gradients as `reprise
// trace` gives them, and five optimizer steps by a recipe.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/factory.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/rrt_models.h"
#include "support/torch_device.h"
#include "train/lm_trace.h"
#include "train/loop/checkpoint.h"
#include "train/loop/log.h"
#include "train/trainer.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

// The README's.
constexpr double kLoss = 2e-5, kGradient = 1e-4, kTrainingLoss = 1e-4, kNorm = 1e-4,
                 kParameter = 1e-4;

class Uptraining : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!torch_plugin_path()) GTEST_SKIP() << "built without the torch backend";
    write_rrt_model(case_, folder_.path());
  }
  std::filesystem::path golden(const std::string& name) const {
    return case_.root() / "2x3" / name;
  }
  std::filesystem::path teacher() const { return case_.root() / "model"; }

  const RrtCase case_{GetParam(), 2, 3, "average-4"};
  const TempFolder folder_;
};

std::map<std::string, std::vector<float>> by_name(const std::vector<TensorView>& tensors) {
  std::map<std::string, std::vector<float>> values;
  for (const TensorView& tensor : tensors) values[tensor.name] = to_floats(tensor);
  return values;
}

double largest(const std::vector<float>& values) {
  float most = 0;
  for (const float value : values) most = std::max(most, std::abs(value));
  return most;
}

TEST_P(Uptraining, LossesAndGradients) {
  const WeightFile file = open_safetensors(golden("loss.safetensors")).weights;
  const auto loaded = load_model(folder_.path(), {"torch", ""});
  for (const std::string name : {"ce", "aggressive_kd"}) {
    const auto found = by_name(
        trace_lm_losses(*loaded, golden("loss.safetensors"), {.teacher = teacher(), .loss = name}));
    int losses = 0, gradients = 0;
    double worst = 0;
    for (const TensorView& tensor : file.tensors()) {
      const std::vector<float> expected =
          tensor.type == DType::F32 ? to_floats(tensor) : std::vector<float>();
      if (tensor.name.starts_with("loss.")) {
        ASSERT_TRUE(found.contains(tensor.name)) << tensor.name;
        EXPECT_NEAR(found.at(tensor.name)[0], expected[0], kLoss) << tensor.name;
        ++losses;
      } else if (tensor.name.starts_with("gradnorm.")) {
        ASSERT_TRUE(found.contains(tensor.name)) << tensor.name;
        EXPECT_NEAR(found.at(tensor.name)[0], expected[0], kNorm * expected[0]) << tensor.name;
      } else if (const std::string start = "grad." + name + "."; tensor.name.starts_with(start)) {
        const std::string of = "grad." + rrt_tensor_name(tensor.name.substr(start.size()));
        ASSERT_TRUE(found.contains(of)) << of;
        const double off = distance(found.at(of), expected) / largest(expected);
        worst = std::max(worst, off);
        EXPECT_LE(off, kGradient) << tensor.name;
        ++gradients;
      }
    }
    EXPECT_EQ(losses, 13);
    EXPECT_GE(gradients, 100);
    RecordProperty(name, fmt::format("worst gradient {:.1e}", worst));
  }
}

TEST_P(Uptraining, FiveStepsByARecipe) {
  const WeightFile file = open_safetensors(golden("train.safetensors")).weights;
  const TensorView& batches = file.get("batches");
  write_safetensors(
      folder_ / "tokens.safetensors",
      {make_view("tokens", Shape{10, 17}, std::span<const int64_t>(to_ints(batches)))});
  write_file_atomically(folder_ / "recipe.yaml", fmt::format(R"(
model: {{from: .}}
data:
  train: [{{tokens: tokens.safetensors}}]
  shuffle: false
loss: lm
distill: {{teacher: {}}}
optimizer:
  {{lr: 1.0e-3, schedule: constant, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, clip: 0}}
run: {{steps: 5, batch: 2, log_every: 1}}
)",
                                                             teacher().string()));
  const auto backend = make_torch_backend({.threads = 1, .device = torch_device()});
  TrainOptions options;
  options.output = folder_ / "out";
  std::vector<StepReport> reports;
  options.progress = [&](const StepReport& report) { reports.push_back(report); };
  ASSERT_TRUE(Trainer(load_recipe(folder_ / "recipe.yaml"), *backend, options).run());

  ASSERT_EQ(reports.size(), 5u);
  const auto expected = by_name([&] {
    std::vector<TensorView> floats;
    for (const TensorView& tensor : file.tensors())
      if (tensor.type == DType::F32) floats.push_back(tensor);
    return floats;
  }());
  for (size_t i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    EXPECT_NEAR(reports[i].loss, expected.at("loss")[i], kTrainingLoss);
    EXPECT_NEAR(reports[i].values.at("ce"), expected.at("ce")[i], kTrainingLoss);
    EXPECT_NEAR(reports[i].values.at("distill"), expected.at("forward_kl")[i], kTrainingLoss);
    const double norm = expected.at("grad_norm")[i];
    EXPECT_NEAR(reports[i].gradient_norm, norm, kNorm * norm);
  }
  const auto trained =
      by_name(open_safetensors(folder_ / "out/checkpoint.safetensors").weights.tensors());
  int after = 0, norms = 0;
  for (const auto& [name, values] : expected) {
    if (name.starts_with("after.")) {
      const std::string of = rrt_tensor_name(name.substr(6));
      ASSERT_TRUE(trained.contains(of)) << of;
      EXPECT_LE(distance(trained.at(of), values), kParameter) << name;
      ++after;
    } else if (name.starts_with("l2.")) {
      const std::string of = rrt_tensor_name(name.substr(3));
      ASSERT_TRUE(trained.contains(of)) << of;
      double sum = 0;
      for (const float value : trained.at(of)) sum += double{value} * value;
      EXPECT_NEAR(std::sqrt(sum), values[0], kParameter * values[0]) << name;
      ++norms;
    }
  }
  EXPECT_GE(after, 9);
  EXPECT_GE(norms, 100);
}

INSTANTIATE_TEST_SUITE_P(Golden, Uptraining, testing::Values("llama", "gemma"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace reprise::test
