// Many plans scored at once are each plan scored alone.
#include "eval/plan_score.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "eval/perplexity.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

using ::testing::HasSubstr;

constexpr int kLayers = 5;
constexpr int64_t kWindow = 18;

std::vector<int32_t> some_tokens(int count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((i * i + 5 * i) % 46);
  return tokens;
}

// Some equal, some the beginning of others, some that differ from the first step on.
const std::vector<std::string>& plan_texts() {
  static const std::vector<std::string> texts = {
      "0-4",          "0-3,2-3@0.1,4", "0-3,2-3@0.3,4", "0-3,2-3*2@0.1,4",
      "0-1,2-3*3,4",  "0-2",           "0-4,3-4",       "0-1@1.1,2-4",
      "0-4",          "4-0",           "0-1,2-3@0.9,4", "0-3",
      "0-3,2-3*2@0.1"};
  return texts;
}

std::vector<Plan> plans() {
  std::vector<Plan> all;
  for (const std::string& text : plan_texts()) all.push_back(parse_plan(text, kLayers, "plan"));
  return all;
}

void expect_alone_and_together(Model& model) {
  const std::vector<int32_t> tokens = some_tokens(2 * kWindow + 3);
  const PlanScorer scorer(model);
  const std::vector<JudgedPrompt> windows = judged_windows(tokens, kWindow, /*bos=*/7);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].prompt.ids[0], 7);
  EXPECT_EQ(windows[0].predictions(), kWindow / 2 - 1);
  std::vector<double> sums(plan_texts().size());
  for (const JudgedPrompt& window : windows) {
    const std::vector<double> together = scorer.nll(window, plans());
    ASSERT_EQ(together.size(), sums.size());
    for (size_t i = 0; i < sums.size(); ++i) {
      const Plan alone[] = {plans()[i]};
      EXPECT_EQ(scorer.nll(window, alone)[0], together[i]) << plan_texts()[i];
      sums[i] += together[i];
    }
  }
  // And what eval --perplexity says.
  for (size_t i = 0; i < sums.size(); ++i) {
    PlanOptions options;
    options.set("plan", plan_texts()[i]);
    const PerplexityResult whole =
        perplexity(tokens, kWindow, 7, window_logits(model, make_plans(model, options), 5));
    EXPECT_NEAR(sums[i] / static_cast<double>(whole.tokens), whole.mean_nll, 1e-12)
        << plan_texts()[i];
  }
}

TEST(PlanScore, TogetherAsAlone) {
  TinyShape shape;
  shape.layers = kLayers;
  const auto backend = make_backend("cpu", {.threads = 2});
  expect_alone_and_together(*tiny_model(tiny_text_config("LlamaForCausalLM", shape), *backend));
}

// Phantom keeps the state of a request's first token beside its KV.
TEST(PlanScore, SchemesThatKeepMoreThanKv) {
  TinyShape shape;
  shape.layers = kLayers;
  const auto backend = make_backend("cpu", {.threads = 2});
  expect_alone_and_together(*tiny_model(
      tiny_vision_language_config("phantom", tiny_text_config("Qwen2ForCausalLM", shape)),
      *backend));
}

TEST(PlanScore, CanBeCancelled) {
  TinyShape shape;
  shape.layers = kLayers;
  const auto backend = make_backend("cpu", {.threads = 1});
  const auto model = tiny_model(tiny_text_config("LlamaForCausalLM", shape), *backend);
  const PlanScorer scorer(*model);
  const auto windows = judged_windows(some_tokens(kWindow), kWindow, std::nullopt);
  int asked = 0;
  EXPECT_TRUE(scorer.nll(windows[0], plans(), [&] { return ++asked > 3; }).empty());
  EXPECT_EQ(asked, 4);
  EXPECT_TRUE(scorer.nll(windows[0], {}).empty());
}

TEST(PlanScore, TextsThatFillNoWindow) {
  EXPECT_THAT(error_of([] { judged_windows(some_tokens(17), kWindow, std::nullopt); }),
              HasSubstr("17 tokens"));
}

}  // namespace
}  // namespace reprise::test
