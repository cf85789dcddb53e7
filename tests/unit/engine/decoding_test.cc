// Beams, stop texts and turns of a chat through the generator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "engine/generator.h"
#include "eval/qa.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using testing::copy_model;
using testing::edit_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempFolder;
using testing::test_data;
using ::testing::ThrowsMessage;

class DecodingTest : public ::testing::Test {
 protected:
  LoadedModel& load(const std::string& name) {
    const auto path = folder_ / std::to_string(models_.size());
    copy_model(name, path);
    edit_json(path / "config.json", [](Json& json) {  // room for a picture of seven tiles
      if (json.contains("llm_config")) json["llm_config"]["max_position_embeddings"] = 1024;
    });
    LoadedModelOptions options;
    options.model = path;
    options.compute.threads = 1;
    models_.push_back(LoadedModel::load(options));
    return *models_.back();
  }
  static Prompt prompt_of(std::vector<int32_t> ids) {
    Prompt prompt;
    prompt.tokens.ids = std::move(ids);
    return prompt;
  }
  const std::filesystem::path picture_file_ = test_data("golden/trol/phi3-vit-448/image.png");
  const Picture picture_ = Picture::read(picture_file_);
  TempFolder folder_;
  std::vector<std::unique_ptr<LoadedModel>> models_;
};

TEST_F(DecodingTest, BeamsAreThoseOfTheSearchAndComeInOnePiece) {
  LoadedModel& loaded = load("rrt/llama");
  const Prompt prompt = prompt_of({20, 30, 40, 50});
  const GenerationOptions options{.beam = {.beams = 4, .returned = 3}, .max_tokens = 10};
  std::vector<std::string> pieces;
  Generator generator(loaded, {});
  const Generation result =
      generator.generate(prompt, options, [&](std::string_view t) { pieces.emplace_back(t); });

  const auto plans = make_plans(loaded.model());
  Session session(loaded.model(), plans);
  AnswerRules rules;
  rules.ends = loaded.end_tokens();
  rules.max_tokens = 10;
  BeamSearch search(options.beam, Answer(rules));
  const std::vector<float> logits = session.prefill(prompt.tokens);
  Branches branches(loaded.model(), plans, session);
  const int64_t calls = run_search(branches, search, logits);
  const auto expected = search.results();
  ASSERT_EQ(result.beams.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(result.beams[i].tokens, expected[i].tokens);
    EXPECT_EQ(result.beams[i].score, expected[i].score);
  }
  EXPECT_EQ(result.tokens, expected[0].tokens);
  EXPECT_EQ(result.text, result.beams[0].text);
  EXPECT_THAT(pieces, ElementsAre(result.text));
  EXPECT_EQ(result.decode_steps, calls);
  EXPECT_EQ(result.kv_bytes, branches.kv_bytes());
  EXPECT_TRUE(generator.generate(prompt, {.max_tokens = 4}).beams.empty());
}

TEST_F(DecodingTest, AStopTextEndsABeam) {
  LoadedModel& loaded = load("rrt/llama");
  Generator generator(loaded, {});
  const Prompt prompt = prompt_of({20, 30, 40, 50});
  GenerationOptions options{.beam = {.beams = 3, .returned = 3}, .max_tokens = 24};
  const std::string whole = generator.generate(prompt, options).text;
  size_t at = whole.size() / 2;
  while (at < whole.size() && (whole[at] & 0x80)) ++at;  // an ASCII character
  ASSERT_LT(at, whole.size());
  options.stop = {whole.substr(at, 1)};
  const Generation result = generator.generate(prompt, options);
  int stopped = 0;
  for (const BeamAnswer& beam : result.beams) {
    EXPECT_THAT(beam.text, Not(HasSubstr(options.stop[0])));
    // What a beam that ended before the limit ended with is the stop text or an end token.
    stopped += loaded.tokenizer().decode(beam.tokens).find(options.stop[0]) != std::string::npos;
  }
  EXPECT_GT(stopped, 0);
  EXPECT_NE(result.stop, StopReason::Cancelled);
}

// A stop text of several characters is spread over tokens; no part of it may be streamed, and what
// only looks like its beginning must be.
TEST_F(DecodingTest, AStopTextOverSeveralTokensIsNeverStreamed) {
  LoadedModel& loaded = load("rrt/llama");
  Generator generator(loaded, {});
  const Prompt prompt = prompt_of({20, 30, 40, 50});
  const Generation all = generator.generate(prompt, {.max_tokens = 30});
  for (size_t begin = 1; begin + 8 < all.text.size(); begin += 5) {
    const auto inside = [&](size_t at) { return (all.text[at] & 0xC0) == 0x80; };  // a character
    const size_t end = begin + 7;
    if (inside(begin) || inside(end)) continue;
    const std::string stop = all.text.substr(begin, end - begin);
    std::string streamed;
    const Generation result =
        generator.generate(prompt, {.max_tokens = 30, .stop = {stop, stop.substr(0, 3) + "#"}},
                           [&](std::string_view piece) { streamed += piece; });
    EXPECT_EQ(result.stop, StopReason::StopString);
    EXPECT_EQ(streamed, all.text.substr(0, all.text.find(stop)));
    EXPECT_EQ(streamed, result.text);
    EXPECT_LE(result.tokens.size(), all.tokens.size());
  }
}

TEST_F(DecodingTest, BeamsEndWithTheContext) {
  LoadedModel& loaded = load("rrt/llama");  // 256 tokens
  Generator generator(loaded, {});
  GenerationOptions options{.beam = {.beams = 2, .early_stop = EarlyStop::Never}};
  const Generation result = generator.generate(prompt_of(std::vector<int32_t>(250, 20)), options);
  EXPECT_EQ(result.stop, StopReason::ContextFull);
  EXPECT_EQ(result.tokens.size(), 7u);
}

TEST_F(DecodingTest, BeamsDoNotSample) {
  Generator generator(load("rrt/llama"), {});
  EXPECT_THAT(
      [&] {
        generator.generate(prompt_of({20}), {.sampler = {.temperature = 1}, .beam = {.beams = 2}});
      },
      ThrowsMessage<Error>(HasSubstr("does not sample")));
  EXPECT_THAT([&] { generator.generate(prompt_of({20}), {.beam = {.beams = 0}}); },
              ThrowsMessage<Error>(HasSubstr("beams: expected 1")));
}

TEST_F(DecodingTest, QuestionsAreAnsweredByTheBestBeam) {
  for (const char* name : {"trol/phi3-vit", "phantom/qwen2-vit"}) {
    LoadedModel& loaded = load(name);
    const QaOptions options{.generation = {.beam = {.beams = 3}, .max_tokens = 6}};
    const std::vector<Question> questions = {{picture_file_, "what shape is it?", "x"},
                                             {picture_file_, "what colour is it?", "y"}};
    const QaResult answers = answer_questions(loaded, {.reuse_prefix = true}, questions, options);
    for (size_t i = 0; i < questions.size(); ++i) {
      PromptBuilder builder(loaded);
      const Prompt prompt = builder.chat({{"user", questions[i].question, {picture_}}});
      const Generation alone = Generator(loaded, {}).generate(prompt, options.generation);
      EXPECT_EQ(answers.predictions[i], trim(alone.text)) << name;
    }
  }
}

// A second turn is a prompt again. What was decoded in the first is part of it, and what TroL decoded
// is traversed as any prompt is: only the first prompt's KV may be reused. Beams are not kept.
TEST_F(DecodingTest, ASecondTurnReusesWhatAPromptWouldCompute) {
  for (const char* name : {"trol/phi3-vit", "phantom/phi3-vit", "phantom/qwen2-vit"}) {
    for (const int beams : {1, 3}) {
      SCOPED_TRACE(fmt::format("{}, {} beams", name, beams));
      LoadedModel& loaded = load(name);
      PromptBuilder builder(loaded);
      const GenerationOptions options{.beam = {.beams = beams}, .max_tokens = 12};
      Generator chat(loaded, {.reuse_prefix = true});
      std::vector<ChatTurn> turns = {{"user", "what shape is it?", {picture_}}};
      const Prompt first = builder.chat(turns);
      const Generation answer = chat.generate(first, options);
      turns.push_back({"assistant", answer.text, {}});
      turns.push_back({"user", "and what colour?", {}});
      const Prompt second = builder.chat(turns);
      const Generation reused = chat.generate(second, options);
      const Generation fresh = Generator(loaded, {}).generate(second, options);
      EXPECT_EQ(reused.first_logits, fresh.first_logits);
      EXPECT_EQ(reused.tokens, fresh.tokens);
      EXPECT_EQ(fresh.reused_tokens, 0);
      // All of the first prompt where rope is the same for both lengths, and never more.
      const auto most = [&](const Prompt& prompt, const Generation& given) {
        const bool answers = beams == 1 && !std::string_view(name).starts_with("trol");
        return prompt.tokens.size() + (answers ? std::ssize(given.tokens) - 1 : 0);
      };
      EXPECT_LE(reused.reused_tokens, most(first, answer));
      EXPECT_GT(reused.reused_tokens, first.tokens.size() - 4);
      // A third turn may reuse the second prompt, its answer included by then.
      turns.push_back({"assistant", reused.text, {}});
      turns.push_back({"user", "a third?", {}});
      const Prompt third = builder.chat(turns);
      const Generation last = chat.generate(third, options);
      EXPECT_EQ(last.first_logits, Generator(loaded, {}).generate(third, options).first_logits);
      EXPECT_GT(last.reused_tokens, first.tokens.size());
      EXPECT_LE(last.reused_tokens, most(second, reused));
    }
  }
}

}  // namespace
}  // namespace reprise
