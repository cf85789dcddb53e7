// The rules of an answer, over made-up tokens; generator_test.cc has them with models.
#include "engine/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "support/letters_tokenizer.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::LettersTokenizer;
using ::testing::ThrowsMessage;

// 0 to 4: a to e; 5, 6: both halves of a two-byte character; 7, 8: special.
const LettersTokenizer kLetters({"a", "b", "c", "d", "e", "\xC3", "\xA9", "<x>", "<end>"}, 7);

AnswerRules rules_of(std::vector<std::string> stops = {}) {
  AnswerRules rules;
  rules.tokenizer = &kLetters;
  rules.ends = {8};
  rules.stops = std::move(stops);
  return rules;
}

struct Outcome {
  std::vector<std::string> pieces;  // one a token
  std::optional<StopReason> end;
  bool operator==(const Outcome&) const = default;
};
Outcome feed(Answer& answer, const std::vector<int32_t>& tokens) {
  Outcome outcome;
  for (const int32_t token : tokens) {
    EXPECT_FALSE(outcome.end) << "went on behind its end";
    const AnswerEvent event = answer.append(token);
    EXPECT_EQ(event.token, token);
    EXPECT_EQ(event.end, answer.end());
    outcome.pieces.push_back(event.text);
    outcome.end = event.end;
  }
  std::string joined;
  for (const std::string& piece : outcome.pieces) joined += piece;
  EXPECT_EQ(joined, answer.text());
  EXPECT_EQ(answer.tokens(), tokens);
  return outcome;
}
Outcome feed(const AnswerRules& rules, const std::vector<int32_t>& tokens) {
  Answer answer(rules);
  return feed(answer, tokens);
}

TEST(Answer, EndTokensEndItAndAreNoText) {
  EXPECT_EQ(feed(rules_of(), {0, 1, 8}), (Outcome{{"a", "b", ""}, StopReason::EndToken}));
  AnswerRules rules = rules_of();
  rules.ends = {2, 8, 2};  // an ordinary token too
  EXPECT_EQ(feed(rules, {0, 2}), (Outcome{{"a", ""}, StopReason::EndToken}));
}

TEST(Answer, TextComesInWholeCharacters) {
  EXPECT_EQ(feed(rules_of(), {0, 5, 6, 1}), (Outcome{{"a", "", "\xC3\xA9", "b"}, {}}));
  EXPECT_EQ(feed(rules_of(), {5, 8}), (Outcome{{"", "\xEF\xBF\xBD"}, StopReason::EndToken}));
  EXPECT_EQ(feed(rules_of(), {0, 7, 1}), (Outcome{{"a", "", "b"}, {}}));  // specials are left out
}

TEST(Answer, StopTextsAreHeldBackAndCut) {
  EXPECT_EQ(feed(rules_of({"bc"}), {0, 1, 2}), (Outcome{{"a", "", ""}, StopReason::StopString}));
  EXPECT_EQ(feed(rules_of({"bcd"}), {0, 1, 2, 0}), (Outcome{{"a", "", "", "bca"}, {}}));
  // What was held back comes with the end.
  EXPECT_EQ(feed(rules_of({"bcd"}), {1, 2, 8}), (Outcome{{"", "", "bc"}, StopReason::EndToken}));
}

// As stop_strings of transformers: special tokens count as they are written.
TEST(Answer, StopTextsMayBeSpecialTokens) {
  EXPECT_EQ(feed(rules_of({"<x>"}), {0, 7}), (Outcome{{"a", ""}, StopReason::StopString}));
  EXPECT_EQ(feed(rules_of({"b<x>c"}), {0, 1, 7, 2}),
            (Outcome{{"a", "", "", ""}, StopReason::StopString}));
  EXPECT_EQ(feed(rules_of({"b<x>c"}), {0, 1, 7, 3}), (Outcome{{"a", "", "", "bd"}, {}}));
  EXPECT_EQ(feed(rules_of({"x>"}), {7}), (Outcome{{""}, StopReason::StopString}));
  // And what is shown never holds a stop text, whatever is left out in between.
  EXPECT_EQ(feed(rules_of({"bc"}), {0, 1, 7, 2}),
            (Outcome{{"a", "", "", ""}, StopReason::StopString}));
  // An end token is the model's own end, whether or not its text is among the stops.
  EXPECT_EQ(feed(rules_of({"<end>"}), {0, 8}), (Outcome{{"a", ""}, StopReason::EndToken}));
}

TEST(Answer, LimitsSayWhichOneItWas) {
  AnswerRules rules = rules_of({"zz"});
  rules.max_tokens = 2;
  EXPECT_EQ(feed(rules, {0, 1}).end, StopReason::MaxTokens);
  EXPECT_EQ(rules.most_tokens(), 2);
  rules.context_tokens = 2;
  EXPECT_EQ(feed(rules, {0, 1}).end, StopReason::MaxTokens);
  rules.context_tokens = 1;
  EXPECT_EQ(feed(rules, {0}).end, StopReason::ContextFull);
  EXPECT_EQ(rules.most_tokens(), 1);
  rules.max_tokens = 0;
  EXPECT_EQ(feed(rules, {0}).end, StopReason::ContextFull);
  EXPECT_EQ(rules.most_tokens(), 1);
  EXPECT_EQ(feed(rules, {8}).end, StopReason::EndToken);  // the model's end comes first
  rules.stops = {"a"};
  EXPECT_EQ(feed(rules, {0}).end, StopReason::StopString);
}

TEST(Answer, EndedFromOutsideItHandsOutTheRest) {
  Answer answer(rules_of({"abc"}));
  feed(answer, {0, 1});
  EXPECT_EQ(answer.text(), "");
  EXPECT_EQ(answer.finish(StopReason::Cancelled), "ab");
  EXPECT_EQ(answer.text(), "ab");
  EXPECT_EQ(answer.end(), StopReason::Cancelled);
  // A character cut short is U+FFFD, and that may be a stop text itself.
  Answer broken(rules_of({"\xEF\xBF\xBD"}));
  feed(broken, {0, 5});
  EXPECT_EQ(broken.finish(StopReason::Cancelled), "");
  EXPECT_EQ(broken.end(), StopReason::StopString);
}

TEST(Answer, CopiesGoOnByThemselves) {
  Answer one(rules_of({"bcd"}));
  feed(one, {0, 1, 2});
  Answer two = one;
  EXPECT_EQ(one.append(3).end, StopReason::StopString);
  EXPECT_EQ(two.append(4).text, "bce");
  EXPECT_EQ(one.text(), "a");
  EXPECT_EQ(two.text(), "abce");
  EXPECT_THAT(two.tokens(), ElementsAre(0, 1, 2, 4));
  two = one;
  EXPECT_EQ(two.text(), "a");
}

// Beams that can't win any more go on behind their end.
TEST(Answer, BehindAnEndOnlyAStopTextStays) {
  Answer ended(rules_of({"bc"}));
  feed(ended, {0, 8});
  EXPECT_EQ(ended.append(1).end, std::nullopt);
  Answer stopped(rules_of({"bc"}));
  feed(stopped, {1, 2});
  EXPECT_EQ(stopped.append(0).end, StopReason::StopString);
  EXPECT_EQ(stopped.text(), "");
}

class Add : public LogitsProcessor {
 public:
  explicit Add(float value) : value_(value) {}
  void process(std::span<float> scores, std::span<const int32_t> prompt,
               std::span<const int32_t> answer) const override {
    scores[prompt.size()] += value_;
    scores[answer.size()] *= 2;
  }

 private:
  float value_;
};

TEST(Answer, ProcessorsApplyInTheirOrderAndSeeAllTokens) {
  AnswerRules rules;
  rules.processors = {std::make_shared<Add>(3), std::make_shared<RepetitionPenalty>(2.0f)};
  Answer answer(rules, std::vector<int32_t>{1, 0});
  const std::vector<float> logits = {1, 2, 3, 4};
  std::vector<float> scores = logits;
  answer.process(scores);  // + 3 at 2, * 2 at 0, then / 2 at 0 and 1
  EXPECT_THAT(scores, ElementsAre(1, 1, 6, 4));
  EXPECT_EQ(answer.push(logits).token, 2);
  scores = logits;
  answer.process(scores);  // + 3 at 2, * 2 at 1, then / 2 at 0, 1 and 2
  EXPECT_THAT(scores, ElementsAre(0.5f, 2, 3, 4));
  EXPECT_EQ(answer.push(logits).token, 3);
  EXPECT_EQ(logits[2], 3) << "the caller's logits stay";
}

TEST(Answer, OnlyTokensOfTheVocabularyAreChosen) {
  AnswerRules rules;
  rules.vocab = 2;
  Answer answer(rules);
  EXPECT_EQ(answer.push(std::vector<float>{1, 2, 9}).token, 1);
}

// The draw of a step is that of the sampler alone.
TEST(Answer, SamplesByStep) {
  AnswerRules rules;
  rules.sampler = {.temperature = 1, .seed = 4};
  Answer answer(rules);
  Sampler sampler(rules.sampler);
  const std::vector<float> logits(50, 1.0f);
  for (int64_t step = 0; step < 20; ++step) {
    EXPECT_EQ(answer.push(logits).token, sampler.sample(logits, step));
  }
}

TEST(Answer, Errors) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  AnswerRules rules;
  Answer plain(rules);
  plain.append(0);
  EXPECT_THAT([&] { plain.push(std::vector<float>{0, nan, 1}); },
              ThrowsMessage<Error>(HasSubstr("generation step 1: logits are NaN")));
  rules.processors = {std::make_shared<RepetitionPenalty>(2.0f)};
  Answer processed(rules);
  EXPECT_THAT([&] { processed.push(std::vector<float>{0, nan, 1}); },
              ThrowsMessage<Error>(HasSubstr("generation step 0: logits are NaN")));
  EXPECT_TRUE(processed.tokens().empty());
  EXPECT_THAT([] { Answer(rules_of({"a", ""})); }, ThrowsMessage<Error>(HasSubstr("empty")));
  rules.sampler.top_k = -1;
  EXPECT_THAT([&] { Answer{rules}; }, ThrowsMessage<Error>(HasSubstr("top-k")));
}

// ---- The processors

std::vector<float> penalized(float penalty, std::vector<float> scores,
                             const std::vector<int32_t>& prompt,
                             const std::vector<int32_t>& answer) {
  RepetitionPenalty(penalty).process(scores, prompt, answer);
  return scores;
}

TEST(RepetitionPenalty, DividesPositiveAndMultipliesNegativeScoresOnce) {
  const std::vector<float> scores = {2.0f, 1.5f, -1.0f, -1.2f};
  EXPECT_EQ(penalized(2, scores, {}, {}), scores);
  EXPECT_THAT(penalized(2, scores, {0, 0, 2}, {2, 0}), ElementsAre(1.0f, 1.5f, -2.0f, -1.2f));
  EXPECT_THAT(penalized(2, scores, {}, {1, 3}), ElementsAre(2.0f, 0.75f, -1.0f, -2.4f));
  EXPECT_EQ(penalized(2, scores, {100, -1}, {4}), scores);  // pictures' placeholders
  EXPECT_THAT(penalized(0.5f, {3, -1}, {0, 1}, {}), ElementsAre(6, -0.5f));
}

TEST(RepetitionPenalty, IsANumberAboveZero) {
  for (const float bad : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT([&] { RepetitionPenalty{bad}; },
                ThrowsMessage<Error>(AllOf(HasSubstr("repetition penalty"), HasSubstr("above 0"))));
  }
}

}  // namespace
}  // namespace reprise
