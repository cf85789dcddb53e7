// The threshold to leave loops by: chosen from samples, which are what decoding would have given.
#include "eval/exit_calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "base/file.h"
#include "engine/early_exits.h"
#include "engine/loaded_model.h"
#include "engine/sampler.h"
#include "support/error_of.h"
#include "support/paths.h"
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

// With the full depth's KV decoding by the rule gives what the samples say; with other KV a threshold
// is kept only where it holds as it runs.
TEST(ExitSampling, DecodedByTheRule) {
  const auto backend = make_backend("cpu", {.threads = 2});
  const auto model = tiny_model(looped_config(), *backend);
  const auto plans = make_plans(*model);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 19 * 16 + 5; ++i) tokens.push_back((i * i + 5 * i) % 46);
  const ExitText text = {tokens, 16, 7};
  const ExitSamples samples =
      sample_exits(*model, plans->decode, ExitKind::Confidence, tokens, text.ctx, text.bos);
  ASSERT_EQ(std::ssize(samples.full), 19 * 16);
  const auto first = choose_threshold(samples, 0.5);
  ASSERT_TRUE(first);
  const auto decode = [&](double threshold, ExitKv kv) {
    return decode_by_rule(*model, plans->decode, {ExitKind::Confidence, threshold, kv}, text,
                          samples.full);
  };
  const ExitFigures exact = decode(first->threshold, ExitKv::Exact);
  EXPECT_EQ(exact.agreeing, first->agreeing);
  EXPECT_DOUBLE_EQ(exact.mean_depth, first->mean_depth);
  EXPECT_EQ(exact.positions, first->positions);
  int tighter = 0;
  for (const ExitKv kv : {ExitKv::Propagate, ExitKv::Share, ExitKv::Missing})
    for (const double wanted : {0.5, 0.8, 0.95}) {
      SCOPED_TRACE(exit_kv_name(kv));
      const auto loose = choose_threshold(samples, wanted);
      const auto found = choose_threshold_for(*model, plans->decode, kv, text, samples, wanted);
      if (!loose || !found) continue;
      EXPECT_GE(found->agreement(), wanted);
      EXPECT_GE(found->threshold, loose->threshold);
      EXPECT_EQ(found->agreeing, decode(found->threshold, kv).agreeing);
      tighter += found->threshold > loose->threshold;
    }
  EXPECT_GT(tighter, 0) << "no case here needs a stricter threshold";
}

// What README says of the model in models/, on 17 kB of its test text (of 176 kB): the stored rule
// keeps 95% of the tokens, at 65% of the loops or less. So few tokens tell the share to 0.7%.
TEST(ExitSampling, TheShippedModelLeavesEarly) {
  const auto loaded = LoadedModel::load(
      {.model = source_dir() / "models/tiny-recursive.gguf", .compute = {.threads = 2}});
  Model& model = loaded->model();
  const std::optional<ExitConfig> stored = model.config().exit;
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->kv, ExitKv::Exact);
  const std::vector<int32_t> tokens =
      loaded->tokenizer().encode(read_file(data_dir() / "exit/docs.txt"), {.parse_special = false});
  const ExitSamples samples =
      sample_exits(model, model.decode_plan(), stored->kind, tokens, 256, loaded->added_bos());
  const ExitFigures figures = judge_threshold(samples, stored->threshold);
  EXPECT_GT(figures.positions, 3500);
  EXPECT_GE(figures.agreement(), 0.95 - 0.007);
  EXPECT_LE(figures.mean_depth, 0.65 * 3);
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
