// A real language model: SmolLM2-135M-Instruct (scripts/get_smollm2.sh) against transformers on the
// same dequantized weights. tests/data/smollm2/expected.json holds the 20 largest logits at a few
// positions of six prompts, one of 500 tokens; scripts/check_smollm2.py wrote it and compares all
// of them.
#include <gtest/gtest.h>

#include "base/json.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise::test {
namespace {

constexpr double kTolerance = 2e-3;  // on logits near 20, after 30 blocks in float32

std::filesystem::path model_path() {
  return test::source_dir() / "models/downloaded/smollm2-135m-instruct.gguf";
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(model_path()))
      GTEST_SKIP() << "SmolLM2 is not installed: scripts/get_smollm2.sh";
  }
  std::unique_ptr<LoadedModel> load() {
    LoadedModelOptions options;
    options.model = model_path();
    options.compute.threads = 2;
    options.compute.activations = Activations::F32;
    return LoadedModel::load(options);
  }
};

TEST_F(SmolLm2, LogitsAgreeWithTransformers) {
  const Json expected = load_json(test::data_dir() / "smollm2/expected.json");
  const auto loaded = load();
  double worst = 0;
  for (const Json& prompt : expected) {
    TokenInputs inputs;
    inputs.where = prompt["name"];
    inputs.ids = prompt["ids"].get<std::vector<int32_t>>();
    const std::vector<TensorView> traced = trace(*loaded, inputs, {});
    const auto logits = std::find_if(traced.begin(), traced.end(),
                                     [](const TensorView& t) { return t.name == "logits"; });
    ASSERT_NE(logits, traced.end());
    const std::vector<float> values = to_floats(*logits);
    const auto vocab = static_cast<size_t>(logits->shape[1]);
    for (const Json& row : prompt["rows"]) {
      const float* at = values.data() + row["position"].get<size_t>() * vocab;
      for (size_t i = 0; i < row["tokens"].size(); ++i) {
        const double distance =
            std::abs(at[row["tokens"][i].get<size_t>()] - row["logits"][i].get<double>());
        worst = std::max(worst, distance);
        EXPECT_LE(distance, kTolerance) << inputs.where << " position " << row["position"];
      }
      EXPECT_EQ(std::max_element(at, at + vocab) - at, row["tokens"][0].get<int64_t>())
          << inputs.where;
    }
  }
  RecordProperty("largest_distance", std::to_string(worst));
}

TEST_F(SmolLm2, AReplayPlanHoldsNoMoreWeights) {
  const auto loaded = load();
  const int64_t before = loaded->backend().stats().weight_bytes;
  TokenInputs inputs;
  inputs.where = "test";
  inputs.ids = {504, 3575, 282, 4649, 314};  // The capital of France is
  TraceOptions options;
  options.steps = 4;
  options.plan.set("plan", "0-29,10-14");
  EXPECT_EQ(loaded->model().decode_plan(options.plan).visits(), 35);
  const auto traced = trace(*loaded, inputs, options);
  EXPECT_EQ(loaded->backend().stats().weight_bytes, before);
  EXPECT_TRUE(std::any_of(traced.begin(), traced.end(),
                          [](const TensorView& t) { return t.name == "layer.34.out"; }));
}

}  // namespace
}  // namespace reprise::test
