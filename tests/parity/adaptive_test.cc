// Adaptive traversal (--adaptive W): what is skipped, and that nothing else changes. At the first
// layer all tokens have the exact input, so those that make the second visit must get exactly what
// they get without skipping; the others keep their first visit's output.
#include <gtest/gtest.h>

#include <cstring>

#include "support/golden.h"

namespace reprise::test {
namespace {

using Named = std::map<std::string, std::vector<float>>;

Named run(LoadedModel& loaded, const TokenInputs& inputs, const PlanOptions& plan) {
  TraceOptions options;
  options.plan = plan;
  Named values;
  for (const TensorView& tensor : trace(loaded, inputs, options))
    values[tensor.name] = to_floats(tensor);
  return values;
}

class Adaptive : public testing::TestWithParam<const char*> {
 protected:
  Adaptive()
      : folder_(golden_root() / GetParam()),
        loaded_(load_model(folder_ / "model", cpu_machines().back())),
        inputs_(read_token_inputs(folder_ / "case-image.safetensors")) {}
  std::filesystem::path folder_;
  std::unique_ptr<LoadedModel> loaded_;
  TokenInputs inputs_;
};

TEST_P(Adaptive, SkippedTokensStayAndGiveOthersExactKeysAndValues) {
  const Named exact = run(*loaded_, inputs_, {});
  const Named half = run(*loaded_, inputs_, {{"adaptive", 0.5}});
  const std::vector<float>& w = exact.at("layer.0.mix_w");
  EXPECT_EQ(w, half.at("layer.0.mix_w"));
  const size_t d = exact.at("layer.0.out").size() / w.size();
  size_t skipped = 0;
  for (size_t token = 0; token < w.size(); ++token) {
    const bool skips = w[token] < 0.5f;
    skipped += skips;
    const float* want =
        (skips ? exact.at("layer.0.pass1") : exact.at("layer.0.out")).data() + token * d;
    EXPECT_EQ(std::memcmp(want, half.at("layer.0.out").data() + token * d, d * sizeof(float)), 0)
        << "token " << token << ", w " << w[token];
  }
  EXPECT_GT(skipped, 0u);
  EXPECT_LT(skipped, w.size());
}

TEST_P(Adaptive, ZeroSkipsNothingAndOneEverything) {
  const Named exact = run(*loaded_, inputs_, {});
  EXPECT_EQ(exact.at("logits"), run(*loaded_, inputs_, {{"adaptive", 1e-30}}).at("logits"));
  float largest = 0;
  const Named none = run(*loaded_, inputs_, {{"adaptive", 1.0}});
  for (const auto& [name, values] : none)
    if (name.ends_with(".mix_w")) largest = std::max(largest, *std::ranges::max_element(values));
  ASSERT_LT(largest, 1.0f) << "all tokens skip";
  EXPECT_EQ(none.at("logits"), run(*loaded_, inputs_, {{"passes", 1}}).at("logits"));
}

TEST_P(Adaptive, OnlyImageOrOnlyTextTokensMakeTheSecondVisit) {
  const Named exact = run(*loaded_, inputs_, {});
  for (const MixTokens kind : {MixTokens::Image, MixTokens::Text}) {
    const Named some = run(*loaded_, inputs_, {{"traverse", mix_tokens_name(kind)}});
    const size_t tokens = inputs_.ids.size(), d = exact.at("layer.0.out").size() / tokens;
    for (size_t token = 0; token < tokens; ++token) {
      const bool image = inputs_.ids[token] == loaded_->config().image_token;
      const char* like = image == (kind == MixTokens::Image) ? "layer.0.out" : "layer.0.pass1";
      EXPECT_EQ(std::memcmp(exact.at(like).data() + token * d,
                            some.at("layer.0.out").data() + token * d, d * sizeof(float)),
                0)
          << "token " << token << ", " << mix_tokens_name(kind);
    }
  }
}

TEST_P(Adaptive, OutOfRangeIsRefused) {
  EXPECT_THROW(run(*loaded_, inputs_, {{"adaptive", -0.1}}), Error);
  EXPECT_THROW(run(*loaded_, inputs_, {{"adaptive", 1.5}}), Error);
}

INSTANTIATE_TEST_SUITE_P(All, Adaptive, testing::Values("trol/internlm2-clip", "trol/phi3-vit"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

TEST(AdaptiveElsewhere, OnlyTraversalCanBeSkipped) {
  const auto loaded = load_model(golden_root() / "phantom/qwen2-vit/model", {"cpu", "scalar"});
  const auto inputs = read_token_inputs(golden_root() / "phantom/qwen2-vit/case-text.safetensors");
  EXPECT_THROW(run(*loaded, inputs, {{"adaptive", 0.5}}), Error);
}

}  // namespace
}  // namespace reprise::test
