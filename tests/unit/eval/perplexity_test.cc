#include "eval/perplexity.h"

#include "engine/logits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "trace/trace.h"

namespace reprise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// A language model of 8 tokens that expects the token after the current one, with probability p.
class FakeModel {
 public:
  explicit FakeModel(double p) : p_(p) {}
  WindowLogits logits() {
    return [this](std::span<const int32_t> window, int64_t first, const LogitsSink& sink) {
      windows.emplace_back(window.begin(), window.end());
      for (int64_t i = first; i + 1 < static_cast<int64_t>(window.size()); ++i) {
        std::vector<float> row(8, static_cast<float>(std::log((1 - p_) / 7)));
        row[static_cast<size_t>((window[static_cast<size_t>(i)] + 1) % 8)] =
            static_cast<float>(std::log(p_));
        for (float& value : row) value += 3;  // logits are free up to a constant
        sink(i, row);
      }
    };
  }
  std::vector<std::vector<int32_t>> windows;

 private:
  double p_;
};

std::vector<int32_t> counting(int n) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(i % 8);
  return tokens;
}

TEST(Perplexity, CountsTheSecondHalfOfEachFullWindow) {
  FakeModel model(0.5);
  // 3 windows of 8; of each, positions 4, 5, 6 predict tokens 5, 6, 7. 5 tokens are left over.
  const PerplexityResult result = perplexity(counting(29), 8, std::nullopt, model.logits());
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 9);
  EXPECT_NEAR(result.perplexity, 2.0, 1e-6);
  EXPECT_NEAR(result.standard_error, 0.0, 1e-6);
}

TEST(Perplexity, BeginOfTextReplacesEachFirstToken) {
  FakeModel model(0.5);
  perplexity(counting(8), 4, 7, model.logits());
  EXPECT_THAT(model.windows, ElementsAre(ElementsAre(7, 1, 2, 3), ElementsAre(7, 5, 6, 7)));
}

TEST(Perplexity, MeanAndErrorOfUnequalTokens) {
  FakeModel model(0.5);
  std::vector<int32_t> tokens = counting(8);
  tokens[7] = 0;  // wrong: probability 1/14
  const PerplexityResult result = perplexity(tokens, 8, std::nullopt, model.logits());
  const double right = std::log(2.0), wrong = std::log(14.0);
  const double mean = (2 * right + wrong) / 3;
  const double squares = (2 * right * right + wrong * wrong) / 3;
  EXPECT_NEAR(result.mean_nll, mean, 1e-6);
  EXPECT_NEAR(result.perplexity, std::exp(mean), 1e-5);
  EXPECT_NEAR(result.standard_error, std::exp(mean) * std::sqrt((squares - mean * mean) / 2), 1e-5);
}

TEST(Perplexity, KlDivergenceToTheReference) {
  FakeModel model(0.5), reference(0.9);
  const PerplexityResult result =
      perplexity(counting(16), 8, std::nullopt, model.logits(), reference.logits());
  const double expected = 0.9 * std::log(0.9 / 0.5) + 0.1 * std::log(0.1 / 0.5);
  EXPECT_NEAR(result.kl_divergence, expected, 1e-5);
  EXPECT_NEAR(result.perplexity, 2.0, 1e-6);  // the model's, not the reference's
}

TEST(Perplexity, ProgressAfterEachWindow) {
  FakeModel model(0.25);
  std::vector<int64_t> done;
  perplexity(counting(24), 8, std::nullopt, model.logits(), {},
             [&](int64_t at, int64_t windows, double value) {
               done.push_back(at);
               EXPECT_EQ(windows, 3);
               EXPECT_NEAR(value, 4.0, 1e-5);
             });
  EXPECT_THAT(done, ElementsAre(1, 2, 3));
}

TEST(Perplexity, Errors) {
  FakeModel model(0.5);
  EXPECT_THAT([&] { perplexity(counting(7), 8, std::nullopt, model.logits()); },
              ThrowsMessage<Error>(HasSubstr("7 tokens")));
  EXPECT_THAT([&] { perplexity(counting(7), 2, std::nullopt, model.logits()); },
              ThrowsMessage<Error>(HasSubstr("context of 4")));
  const WindowLogits broken = [](std::span<const int32_t>, int64_t first, const LogitsSink& sink) {
    sink(first, std::vector<float>(8, std::numeric_limits<float>::quiet_NaN()));
  };
  EXPECT_THAT([&] { perplexity(counting(8), 8, std::nullopt, broken); },
              ThrowsMessage<Error>(HasSubstr("position 4 are NaN")));
}

TEST(KlDivergence, OfKnownDistributions) {
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const std::vector<float> q = {std::log(0.25f) + 9, std::log(0.25f) + 9, std::log(0.5f) + 9};
  EXPECT_NEAR(kl_divergence(p, p), 0.0, 1e-7);
  EXPECT_NEAR(kl_divergence(p, q), 0.5 * std::log(2.0) - 0.25 * std::log(2.0), 1e-6);
}

}  // namespace
}  // namespace reprise
