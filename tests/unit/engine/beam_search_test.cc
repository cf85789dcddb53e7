// The search alone, over a language made up here; tests/parity/beams_test.cc compares it with
// transformers.
#include "engine/beam_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "support/letters_tokenizer.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int kVocab = 6;
constexpr int32_t kEnd = 5;

// Logits of what follows a text: any function of it will do.
std::vector<float> language(const std::vector<int32_t>& text) {
  uint64_t stream = 1;
  for (const int32_t token : text) stream = stream * 31 + static_cast<uint64_t>(token) + 1;
  const Philox random(3, stream);
  std::vector<float> logits(kVocab);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 2 * random.normal(i);
  return logits;
}

double log_probability(const std::vector<int32_t>& text) {
  double sum = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::vector<float> logits =
        language({text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i)});
    double total = 0;
    for (const float value : logits) total += std::exp(double{value});
    sum += logits[static_cast<size_t>(text[i])] - std::log(total);
  }
  return sum;
}

Answer answer(std::vector<int32_t> ends, int64_t max_tokens) {
  AnswerRules rules;
  rules.ends = std::move(ends);
  rules.max_tokens = max_tokens;
  return Answer(rules);
}

// Runs at most `steps` steps.
void run(BeamSearch& search, int64_t steps = 1000) {
  std::vector<std::vector<int32_t>> texts;
  std::vector<float> logits = language({});
  for (int64_t step = 0; step < steps && !search.done(); ++step) {
    search.step(logits, kVocab);
    std::vector<std::vector<int32_t>> next;
    logits.clear();
    for (const BeamSearch::Next& beam : search.next()) {
      next.push_back(step == 0 ? std::vector<int32_t>() : texts[static_cast<size_t>(beam.parent)]);
      next.back().push_back(beam.token);
      const std::vector<float> row = language(next.back());
      logits.insert(logits.end(), row.begin(), row.end());
    }
    texts = next;
  }
}

TEST(BeamSearch, WideEnoughItFindsTheBestOfAllTexts) {
  constexpr int kLongest = 4;
  // All texts of at most kLongest tokens that end with kEnd or at kLongest.
  std::vector<std::vector<int32_t>> open = {{}}, all;
  for (int length = 1; length <= kLongest; ++length) {
    std::vector<std::vector<int32_t>> longer;
    for (const auto& text : open) {
      for (int32_t token = 0; token < kVocab; ++token) {
        longer.push_back(text);
        longer.back().push_back(token);
        if (token == kEnd || length == kLongest) {
          all.push_back(longer.back());
          longer.pop_back();
        }
      }
    }
    open = longer;
  }
  std::map<double, std::vector<int32_t>> by_score;
  for (const auto& text : all) {
    by_score[log_probability(text) / std::sqrt(static_cast<double>(text.size()))] = text;
  }
  BeamSearch search(
      {.beams = 200, .returned = 10, .length_penalty = 0.5f, .early_stop = EarlyStop::Never},
      answer({kEnd}, kLongest));
  run(search);
  const auto found = search.results();
  ASSERT_EQ(found.size(), 10u);
  auto expected = by_score.rbegin();
  for (const auto& hypothesis : found) {
    EXPECT_EQ(hypothesis.tokens, expected->second);
    EXPECT_NEAR(hypothesis.score, expected->first, 1e-5);
    EXPECT_TRUE(hypothesis.end == StopReason::EndToken || hypothesis.end == StopReason::MaxTokens);
    ++expected;
  }
}

TEST(BeamSearch, OneBeamIsGreedy) {
  std::vector<int32_t> expected;
  while (expected.size() < 12 && (expected.empty() || expected.back() != kEnd)) {
    const std::vector<float> logits = language(expected);
    expected.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  BeamSearch search({}, answer({kEnd}, 12));
  run(search);
  EXPECT_EQ(search.results().at(0).tokens, expected);
  // Equal values go to the lowest id.
  BeamSearch ties({}, answer({}, 1));
  ties.step(std::vector<float>{1, 3, 3, 3}, 4);
  EXPECT_THAT(ties.results().at(0).tokens, ElementsAre(1));
}

TEST(BeamSearch, TextsEndHypotheses) {
  const auto ends = [](std::span<const int32_t> tokens) {
    return tokens.size() >= 2 && tokens[tokens.size() - 1] == tokens[tokens.size() - 2];
  };
  const testing::LettersTokenizer letters({"a", "b", "c", "d", "e", "f"});
  AnswerRules rules;
  rules.tokenizer = &letters;
  rules.stops = {"aa", "bb", "cc", "dd", "ee", "ff"};
  rules.max_tokens = 30;
  BeamSearch search({.beams = 3, .returned = 3}, Answer(rules));
  run(search);
  ASSERT_EQ(search.results().size(), 3u);
  for (const auto& hypothesis : search.results()) {
    ASSERT_LT(hypothesis.tokens.size(), 30u);
    EXPECT_TRUE(ends(hypothesis.tokens));
    EXPECT_EQ(hypothesis.end, StopReason::StopString);
    EXPECT_EQ(hypothesis.text.size(), hypothesis.tokens.size() - 2);
    for (size_t n = 2; n < hypothesis.tokens.size(); ++n) {
      EXPECT_FALSE(ends(std::span(hypothesis.tokens).first(n)));
    }
  }
}

TEST(BeamSearch, TokensBeyondTheAllowedOnesAreNeverChosen) {
  AnswerRules rules;
  rules.vocab = 3;
  rules.max_tokens = 20;
  BeamSearch search({.beams = 2, .returned = 2}, Answer(rules));
  run(search);
  for (const auto& hypothesis : search.results()) {
    for (const int32_t token : hypothesis.tokens) EXPECT_LT(token, 3);
  }
}

TEST(BeamSearch, ExtremeLengthPenalties) {
  for (const float penalty : {-50.0f, -5.0f, 50.0f}) {
    BeamSearch search({.beams = 3, .returned = 2, .length_penalty = penalty},
                      answer({kEnd}, 100));
    run(search);
    ASSERT_TRUE(search.done());
    const auto found = search.results();
    ASSERT_GE(found.size(), 1u) << penalty;
    EXPECT_FALSE(found[0].tokens.empty());
    EXPECT_TRUE(found[0].end.has_value());
  }
}

// More beams than the first token has choices: some begin alike, and all of them in the prompt.
TEST(BeamSearch, MoreBeamsThanTokens) {
  BeamSearch search({.beams = 2 * kVocab, .returned = 3}, answer({kEnd}, 5));
  search.step(language({}), kVocab);
  for (const BeamSearch::Next& next : search.next()) EXPECT_EQ(next.parent, 0);
}

TEST(BeamSearch, StoppedBeforeItsEndItHandsOutWhatRuns) {
  BeamSearch search({.beams = 3, .returned = 3}, answer({}, 0));
  run(search, 4);
  EXPECT_FALSE(search.done());
  const auto found = search.results();
  ASSERT_EQ(found.size(), 3u);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tokens.size(), 4u);
    EXPECT_FALSE(found[i].end.has_value());
    EXPECT_NEAR(found[i].score, log_probability(found[i].tokens) / 4, 1e-5);
    if (i > 0) {
      EXPECT_LE(found[i].score, found[i - 1].score);
    }
  }
}

TEST(BeamSearch, EarlyStopsInOrderOfPatience) {
  const auto steps_and_score = [](EarlyStop early_stop) {
    const BeamOptions options{
        .beams = 2, .returned = 2, .length_penalty = 2, .early_stop = early_stop};
    for (int64_t steps = 1;; ++steps) {
      BeamSearch search(options, answer({kEnd}, 60));
      run(search, steps);
      if (search.done()) return std::pair(steps, search.results().at(0).score);
    }
  };
  const auto [yes, yes_score] = steps_and_score(EarlyStop::Yes);
  const auto [no, no_score] = steps_and_score(EarlyStop::No);
  const auto [never, never_score] = steps_and_score(EarlyStop::Never);
  EXPECT_LE(yes, no);
  EXPECT_LE(no, never);
  EXPECT_LT(yes, never);
  EXPECT_LE(yes_score, never_score);
}

TEST(BeamSearch, Errors) {
  const auto make = [](BeamOptions options, int64_t max_tokens = 5) {
    return [=] { BeamSearch search(options, answer({}, max_tokens)); };
  };
  EXPECT_THAT(make({.beams = 0}), ThrowsMessage<Error>(HasSubstr("beams: expected 1")));
  EXPECT_THAT(make({.beams = 2, .returned = 3}),
              ThrowsMessage<Error>(AllOf(HasSubstr("returned"), HasSubstr("found 3"))));
  EXPECT_THAT(make({.beams = 2, .length_penalty = std::numeric_limits<float>::quiet_NaN()}),
              ThrowsMessage<Error>(HasSubstr("length penalty")));
  EXPECT_THAT(make({.beams = 2, .early_stop = EarlyStop::Never}, 0),
              ThrowsMessage<Error>(HasSubstr("limit of tokens")));
  EXPECT_THAT([] { parse_early_stop("maybe"); }, ThrowsMessage<Error>(HasSubstr("'maybe'")));

  BeamSearch search({.beams = 2}, answer({1, 2, 3}, 5));
  EXPECT_THAT([&] { search.step(std::vector<float>{1, 2, 3}, 3); },
              ThrowsMessage<Error>(HasSubstr("vocabulary of 3")));
  BeamSearch nan({.beams = 2}, answer({}, 5));
  const float bad = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT([&] { nan.step(std::vector<float>{1, bad, 3, 4}, 4); },
              ThrowsMessage<Error>(HasSubstr("step 0: logits are NaN")));
}

// What torch.topk of torch 2.13 returns on a CPU for values with many equals.
TEST(TopK, OrderOfEqualValuesIsTorchs) {
  EXPECT_THAT(top_k(std::vector<float>{0.5f, 3, -1, 2}, 2), ElementsAre(1, 3));
  const auto of = [](size_t n, int64_t k) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i * 7919 % 11 % 4);
    return top_k(values, k);
  };
  EXPECT_THAT(of(6, 3), ElementsAre(4, 1, 5));
  EXPECT_THAT(of(9, 4), ElementsAre(4, 8, 5, 1));
  EXPECT_THAT(of(15, 5), ElementsAre(4, 8, 9, 1, 12));
  EXPECT_THAT(of(700, 4), ElementsAre(15, 4, 19, 8));
  EXPECT_THAT(of(640, 10), ElementsAre(8, 4, 19, 37, 26, 41, 48, 52, 30, 15));
}

}  // namespace
}  // namespace reprise
