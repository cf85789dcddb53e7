// The threshold to leave loops by: chosen from samples, which are what decoding would have given.
#include "eval/exit_calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "engine/early_exits.h"
#include "engine/sampler.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

using testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Two loops, so one exit: scores, and whether the early token is right.
ExitSamples two_loops(ExitKind kind, std::vector<double> scores, std::vector<uint8_t> agrees) {
  return {kind, 2, std::move(scores), std::move(agrees)};
}

TEST(ExitThreshold, TheLoosestThatKeepsTheShare) {
  const ExitSamples samples =
      two_loops(ExitKind::Confidence, {0.91, 0.8, 0.7, 0.6, 0.5}, {1, 1, 0, 1, 1});
  const auto found = choose_threshold(samples, 0.8);  // one wrong token may pass
  ASSERT_TRUE(found);
  EXPECT_EQ(found->threshold, 0.5);
  EXPECT_EQ(found->agreeing, 4);
  EXPECT_EQ(found->mean_depth, 1);
  const auto all = choose_threshold(samples, 1);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->threshold, 0.8);
  EXPECT_EQ(all->agreement(), 1);
  EXPECT_DOUBLE_EQ(all->mean_depth, (1 + 1 + 2 + 2 + 2) / 5.0);
  // The first to leave is wrong already.
  EXPECT_FALSE(choose_threshold(two_loops(ExitKind::Confidence, {0.9, 0.5}, {0, 1}), 1));
  EXPECT_FALSE(choose_threshold(two_loops(ExitKind::Similarity, {kNan, kNan}, {1, 1}), 0.5));
}

TEST(ExitThreshold, EqualScoresLeaveTogether) {
  const ExitSamples samples = two_loops(ExitKind::Gate, {0.5, 0.5, 0.5, 0.2}, {1, 1, 0, 1});
  EXPECT_FALSE(choose_threshold(samples, 0.9));
  EXPECT_EQ(choose_threshold(samples, 0.75)->threshold, 0.2);
}

TEST(ExitThreshold, SmallEntropiesLeaveFirst) {
  const ExitSamples samples = two_loops(ExitKind::Entropy, {0.1, 0.31, 2.5, 3}, {1, 1, 0, 1});
  const auto found = choose_threshold(samples, 1);
  ASSERT_TRUE(found);
  EXPECT_GE(found->threshold, 0.31);
  EXPECT_LT(found->threshold, 2.5);
  EXPECT_EQ(found->mean_depth, 1.5);
  EXPECT_EQ(judge_threshold(samples, 0).mean_depth, 2);
  EXPECT_EQ(judge_threshold(samples, 3).mean_depth, 1);
}

TEST(ExitThreshold, FewDigitsThatStillTellScoresApart) {
  const auto threshold = [](std::vector<double> scores) {
    return choose_threshold(two_loops(ExitKind::Confidence, std::move(scores), {1, 0}), 1)
        ->threshold;
  };
  EXPECT_EQ(threshold({0.8765432, 0.5}), 0.8);
  EXPECT_EQ(threshold({0.8765432, 0.86}), 0.87);
  EXPECT_EQ(threshold({0.8765432, 0.8765}), 0.87654);
  EXPECT_EQ(threshold({1, 0.99}), 1);
}

TEST(ExitThreshold, TheFirstLoopThatSaysSoCounts) {
  ExitSamples samples;
  samples.loops = 3;
  samples.scores = {0.9, 0.1, 0.2, 0.8, 0.3, 0.4};
  samples.agrees = {0, 1, 0, 1, 0, 0};
  const ExitFigures strict = judge_threshold(samples, 0.85), loose = judge_threshold(samples, 0.5);
  EXPECT_EQ(strict.positions, 3);
  EXPECT_EQ(strict.agreeing, 2);
  EXPECT_DOUBLE_EQ(strict.mean_depth, (1 + 3 + 3) / 3.0);
  EXPECT_EQ(loose.agreeing, 2);
  EXPECT_DOUBLE_EQ(loose.mean_depth, (1 + 2 + 3) / 3.0);
}

Json looped_config(int last = 0, int loops = 3) {
  TinyShape tiny;
  tiny.layers = 2 + last;
  Json config = tiny_text_config("LlamaForCausalLM", tiny);
  config["reprise"] = {
      {"scheme", "recursive"},
      {"recursive", {{"loops", loops}, {"lora_rank", 2}, {"last", last}, {"exit_gate", true}}}};
  return config;
}

// A text's tokens decoded one by one by the rule leave where the samples say, and choose what they
// say.
TEST(ExitSampling, IsWhatDecodingGives) {
  const auto backend = make_backend("cpu", {.threads = 2});
  const auto model = tiny_model(looped_config(), *backend);
  const auto plans = make_plans(*model);
  constexpr int64_t kWindow = 20;
  std::vector<int32_t> text;
  for (int32_t i = 0; i < 2 * kWindow + 7; ++i) text.push_back((i * i + 5 * i) % 46);
  for (const ExitKind kind : {ExitKind::Confidence, ExitKind::Entropy, ExitKind::Similarity,
                              ExitKind::Gate, ExitKind::Depth}) {
    SCOPED_TRACE(exit_kind_name(kind));
    int64_t windows = 0;
    const ExitSamples samples = sample_exits(*model, plans->decode, kind, text, kWindow, /*bos=*/7,
                                             [&](int64_t done, int64_t) { windows = done; });
    EXPECT_EQ(windows, 2);
    EXPECT_EQ(samples.positions(), 2 * kWindow);
    std::vector<double> scores;
    for (const double score : samples.scores)
      if (!std::isnan(score)) scores.push_back(score);
    std::sort(scores.begin(), scores.end());
    const double threshold = scores[scores.size() / 2];
    const ExitFigures figures = judge_threshold(samples, threshold);

    int64_t loops = 0, agreeing = 0;
    for (int64_t w = 0; w < 2; ++w) {
      EarlyExits exits(*model, plans->decode, {kind, threshold, ExitKv::Exact});
      Sequence sequence, full;
      for (int64_t i = 0; i < kWindow; ++i) {
        const int32_t ids[] = {i == 0 ? 7 : text[static_cast<size_t>(w * kWindow + i)]};
        Rows rows, whole;
        rows.append(sequence, 1, i + 1);
        const LoopExit exit = exits.run(std::move(rows), model->embed(ids))[0];
        loops += exit.loop + 1;
        whole.append(full, 1, i + 1);
        const Tensor state = model->forward(plans->decode, whole, model->embed(ids));
        const auto logits = backend->to_host(model->logits(model->final_norm(state)));
        agreeing += argmax(exit.logits, "exit") == argmax(logits, "full");
      }
      exits.finish();
    }
    EXPECT_DOUBLE_EQ(figures.mean_depth, static_cast<double>(loops) / (2 * kWindow));
    EXPECT_EQ(figures.agreeing, agreeing);
  }
}

TEST(ExitSampling, Errors) {
  const auto backend = make_backend("cpu", {.threads = 1});
  const std::vector<int32_t> text(30, 3);
  const auto refusal = [&](const Json& config, int64_t ctx = 10) {
    const auto model = tiny_model(config, *backend);
    return error_of([&] {
      sample_exits(*model, model->decode_plan(), ExitKind::Confidence, text, ctx, std::nullopt);
    });
  };
  EXPECT_EQ(refusal(looped_config()), "");
  EXPECT_THAT(refusal(looped_config(0, 1)), HasSubstr("one loop"));
  EXPECT_THAT(refusal(looped_config(1)), HasSubstr("layers behind its loops"));
  EXPECT_THAT(refusal(looped_config(), 31), HasSubstr("30 tokens, less than one window of 31"));
  EXPECT_THAT(refusal(tiny_text_config("LlamaForCausalLM")), HasSubstr("no loop end"));
}

}  // namespace
}  // namespace reprise::test
