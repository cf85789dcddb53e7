#include "engine/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/json.h"
#include "eval/qa.h"
#include "support/test_models.h"
#include "trace/trace.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::copy_model;
using testing::edit_json;
using testing::edit_tensors;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::test_data;
using ::testing::ThrowsMessage;

class GeneratorTest : public ::testing::Test {
 protected:
  std::unique_ptr<LoadedModel> load(const std::string& name,
                                    const std::string& chat_template = "") {
    if (!std::filesystem::exists(folder_ / "model")) copy_model(name, folder_ / "model");
    LoadedModelOptions options;
    options.model = folder_ / "model";
    options.compute.threads = 1;
    options.chat_template = chat_template;
    return LoadedModel::load(options);
  }
  const std::filesystem::path picture_file_ = test_data("golden/trol/phi3-vit-448/image.png");
  const Picture picture_ = Picture::read(picture_file_);
  TempFolder folder_;
};

TEST_F(GeneratorTest, ChatPromptHasItsPlaceholdersInPlace) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  const Prompt prompt = builder.chat({{"user", "what shape", {picture_}}});
  const auto& tokens = prompt.tokens;
  const int64_t rows = tokens.image_rows.dim(0);
  EXPECT_EQ(rows, prompt.tiles * 16);
  EXPECT_EQ(tokens.ids[0], 3);  // <|im_start|>: Phantom's start-of-sequence token
  EXPECT_EQ(std::count(tokens.is_image.begin(), tokens.is_image.end(), 1), rows);
  // <img>, the placeholders, </img>
  const size_t first = std::find(tokens.ids.begin(), tokens.ids.end(), 5) - tokens.ids.begin();
  EXPECT_EQ(tokens.ids[first - 1], 6);
  EXPECT_EQ(tokens.ids[first + static_cast<size_t>(rows)], 7);
  EXPECT_THAT(loaded->tokenizer().decode(tokens.ids), HasSubstr("what shape"));
  EXPECT_THAT(prompt.stops, ElementsAre("<|im_end|>"));
}

TEST_F(GeneratorTest, TextThatHoldsAPlaceholderIsRefused) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  EXPECT_THAT(
      [&] {
        builder.chat({{"user", "what is <IMG_CONTEXT>?", {}}});
      },
      ThrowsMessage<Error>(HasSubstr("1 image placeholders")));
}

TEST_F(GeneratorTest, RawPromptPutsPicturesWhereTheTextSays) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  const auto ids = [&](const char* text, int pictures) {
    return builder.raw(text, std::vector<Picture>(pictures, picture_)).tokens.ids;
  };
  const std::vector<int32_t> a = loaded->tokenizer().encode("a"),
                             b = loaded->tokenizer().encode("b");
  const std::vector<int32_t> inside = ids("a<image>b", 1);
  EXPECT_EQ(inside.front(), a[0]);
  EXPECT_EQ(inside.back(), b[0]);
  EXPECT_EQ(inside[1], 5);
  const std::vector<int32_t> front = ids("ab", 1);
  EXPECT_EQ(front.front(), 5);
  EXPECT_THAT([&] { ids("a<image>b", 2); }, ThrowsMessage<Error>(HasSubstr("1 times '<image>'")));
}

TEST_F(GeneratorTest, APictureIsEncodedOnce) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  EXPECT_GT(builder.chat({{"user", "a", {picture_}}}).vision_seconds, 0);
  EXPECT_EQ(builder.chat({{"user", "b", {picture_}}}).vision_seconds, 0);
}

TEST_F(GeneratorTest, TextModelsTakeNoPictures) {
  const auto loaded = load("rrt/llama");
  PromptBuilder builder(*loaded);
  EXPECT_THAT(
      [&] {
        builder.chat({{"user", "a", {picture_}}});
      },
      ThrowsMessage<Error>(HasSubstr("text only")));
}

TEST_F(GeneratorTest, GreedyTokensAreThoseOfTheTrace) {
  const auto loaded = load("rrt/llama");
  Generator generator(*loaded, {});
  TokenInputs inputs;
  inputs.where = "test";
  Prompt prompt;
  prompt.tokens.ids = inputs.ids = {20, 30, 40, 50};
  std::string streamed;
  const Generation result =
      generator.generate(prompt, {.max_tokens = 10}, [&](std::string_view t) { streamed += t; });
  std::vector<int64_t> expected;
  for (const TensorView& tensor : trace(*loaded, inputs, {.steps = 10})) {
    if (tensor.name == "decode.tokens") expected = to_ints(tensor);
  }
  EXPECT_EQ(std::vector<int64_t>(result.tokens.begin(), result.tokens.end()), expected);
  EXPECT_EQ(result.stop, StopReason::MaxTokens);
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.prompt_tokens, 4);
  EXPECT_GT(result.kv_bytes, 0);
}

TEST_F(GeneratorTest, EndTokenEndsTheAnswer) {
  copy_model("rrt/llama", folder_ / "model");
  int32_t third = 0;
  {
    const auto loaded = load("rrt/llama");
    Prompt prompt;
    prompt.tokens.ids = {20, 30, 40, 50};
    third = Generator(*loaded, {}).generate(prompt, {.max_tokens = 3}).tokens.at(2);
  }
  edit_json(folder_ / "model/config.json", [&](Json& json) { json["eos_token_id"] = third; });
  const auto loaded = load("rrt/llama");
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  const Generation result = Generator(*loaded, {}).generate(prompt, {.max_tokens = 20});
  EXPECT_EQ(result.stop, StopReason::EndToken);
  ASSERT_EQ(result.tokens.size(), 3u);
  EXPECT_EQ(result.tokens[2], third);
  EXPECT_EQ(result.text, loaded->tokenizer().decode(std::span(result.tokens).first(2), true));
}

TEST_F(GeneratorTest, StopStringIsCutOff) {
  const auto loaded = load("rrt/llama");
  Generator generator(*loaded, {});
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  const std::string whole = generator.generate(prompt, {.max_tokens = 30}).text;
  ASSERT_GT(whole.size(), 12u);
  size_t at = whole.size() / 2;
  while (at < whole.size() && (whole[at] & 0x80)) ++at;  // an ASCII character
  const std::string stop = whole.substr(at, 1);
  const Generation result = generator.generate(prompt, {.max_tokens = 30, .stop = {stop}});
  EXPECT_EQ(result.stop, StopReason::StopString);
  EXPECT_EQ(result.text, whole.substr(0, whole.find(stop)));
}

TEST_F(GeneratorTest, ContextFullAndTooLongPrompts) {
  const auto loaded = load("rrt/llama");  // 256 tokens
  Generator generator(*loaded, {});
  Prompt prompt;
  prompt.tokens.ids.assign(250, 20);
  const Generation result = generator.generate(prompt, {});
  EXPECT_EQ(result.stop, StopReason::ContextFull);
  EXPECT_EQ(result.tokens.size(), 7u);  // 6 of them were run; the seventh has no place
  prompt.tokens.ids.assign(257, 20);
  EXPECT_THAT([&] { generator.generate(prompt, {}); },
              ThrowsMessage<Error>(AllOf(HasSubstr("257 tokens"), HasSubstr("256"))));
}

TEST_F(GeneratorTest, CancelFlagEndsTheGeneration) {
  const auto loaded = load("rrt/llama");
  Generator generator(*loaded, {});
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  std::atomic<bool> cancel{false};
  const Generation result =
      generator.generate(prompt, {.cancel = &cancel}, [&](std::string_view) { cancel = true; });
  EXPECT_EQ(result.stop, StopReason::Cancelled);
  EXPECT_FALSE(result.text.empty());
  EXPECT_LT(result.tokens.size(), 10u);
  EXPECT_EQ(generator.generate(prompt, {.cancel = &cancel}).tokens.size(), 0u);
}

// Where a prompt would be computed as the answer was, the next turn takes both.
TEST_F(GeneratorTest, TheNextTurnGoesOnBehindTheAnswer) {
  const auto loaded = load("rrt/llama");
  Generator chat(*loaded, {.reuse_prefix = true});
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  int64_t known = 0;
  for (int turn = 0; turn < 3; ++turn) {
    // An answer that is interrupted counts, too.
    std::atomic<bool> cancel{false};
    const GenerationOptions options{
        .sampler = {.temperature = 1, .seed = 4}, .max_tokens = 10, .cancel = &cancel};
    const Generation result =
        chat.generate(prompt, options, [&](std::string_view) { cancel = turn == 1; });
    EXPECT_EQ(result.stop, turn == 1 ? StopReason::Cancelled : StopReason::MaxTokens);
    EXPECT_EQ(result.reused_tokens, known);
    const Generation fresh =
        Generator(*loaded, {}).generate(prompt, {.sampler = options.sampler, .max_tokens = 10});
    EXPECT_EQ(result.first_logits, fresh.first_logits);
    EXPECT_EQ(fresh.reused_tokens, 0);
    if (turn != 1) {
      EXPECT_EQ(result.tokens, fresh.tokens);
    }
    prompt.tokens.ids.insert(prompt.tokens.ids.end(), result.tokens.begin(), result.tokens.end());
    known = prompt.tokens.size() - 1;  // the last token was not run
    prompt.tokens.ids.push_back(60);
  }
}

// Whoever gets the text may end it with an exception; the next prompt is answered as ever.
TEST_F(GeneratorTest, AnExceptionOfTheReceiverEndsItsAnswer) {
  const auto loaded = load("rrt/llama");
  Generator generator(*loaded, {});
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  const GenerationOptions options{.max_tokens = 10};
  const auto tokens = generator.generate(prompt, options).tokens;
  EXPECT_THROW(
      generator.generate(prompt, options, [](std::string_view) { throw std::bad_function_call(); }),
      std::bad_function_call);
  EXPECT_EQ(generator.generate(prompt, options).tokens, tokens);
}

TEST_F(GeneratorTest, SeededSamplingRepeats) {
  const auto loaded = load("rrt/llama");
  Generator generator(*loaded, {});
  Prompt prompt;
  prompt.tokens.ids = {20, 30, 40, 50};
  const auto tokens = [&](uint64_t seed) {
    return generator
        .generate(prompt, {.sampler = {.temperature = 1.5f, .seed = seed}, .max_tokens = 20})
        .tokens;
  };
  EXPECT_EQ(tokens(3), tokens(3));
  EXPECT_NE(tokens(3), tokens(4));
}

TEST_F(GeneratorTest, NanWeightsAreAnErrorThatNamesThem) {
  copy_model("rrt/llama", folder_ / "model");
  edit_tensors(folder_ / "model/model.safetensors", [](TensorView& tensor) {
    if (tensor.name != "model.norm.weight") return;
    std::vector<float> values = to_floats(tensor);
    values[3] = std::numeric_limits<float>::quiet_NaN();
    tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
  });
  const auto loaded = load("rrt/llama");
  Prompt prompt;
  prompt.tokens.ids = {20, 30};
  EXPECT_THAT([&] { Generator(*loaded, {}).generate(prompt, {.max_tokens = 2}); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr("logits are NaN"), HasSubstr("'model.norm.weight' holds NaN"))));
}

TEST_F(GeneratorTest, QuestionsAboutOnePictureEncodeItOnceAndAnswerAsAlone) {
  const auto loaded = load("phantom/qwen2-vit");
  const std::vector<Question> questions = {{picture_file_, "what shape is it?", "x"},
                                           {{}, "no picture?", "y"},
                                           {picture_file_, "what colour is it?", "z"},
                                           {picture_file_, "what shape is it", "x"}};
  QaOptions options{.generation = {.max_tokens = 4}};
  const QaResult together = answer_questions(*loaded, {.reuse_prefix = true}, questions, options);
  EXPECT_EQ(together.images_encoded, 1);
  ASSERT_EQ(together.predictions.size(), 4u);
  for (size_t i = 0; i < questions.size(); ++i) {
    const QaResult alone = answer_questions(*loaded, {}, {questions[i]}, options);
    EXPECT_EQ(alone.predictions[0], together.predictions[i]) << i;
  }
  EXPECT_EQ(together.by_answer.at("x").questions, 2);

  // Right answers count, whatever white space is around them; the picture matters.
  std::vector<Question> right = questions;
  for (size_t i = 0; i < right.size(); ++i) right[i].answer = together.predictions[i] + " ";
  EXPECT_EQ(answer_questions(*loaded, {}, right, options).total.correct, 4);
  options.blind = true;
  EXPECT_EQ(answer_questions(*loaded, {}, questions, options).images_encoded, 0);
}

TEST_F(GeneratorTest, QuestionFilesAreCheckedLineByLine) {
  const auto file = folder_ / "q.jsonl";
  const auto load_text = [&](const std::string& text) {
    return [&, text] {
      write_file_atomically(file, text);
      return load_questions(file, "pictures");
    };
  };
  const auto good = load_text(R"({"image":"1.png","question":"a?","answer":"b"})"
                              "\n\n{\"question\":\"c?\",\"answer\":\"d\"}\n")();
  ASSERT_EQ(good.size(), 2u);
  EXPECT_EQ(good[0].image, std::filesystem::path("pictures/1.png"));
  EXPECT_TRUE(good[1].image.empty());
  EXPECT_EQ(load_questions(file, "pictures", 1).size(), 1u);
  const std::string first = "{\"question\":\"c?\",\"answer\":\"d\"}\n";
  EXPECT_THAT([&] { load_text(first + "{\"question\":\"c?\"}")(); },
              ThrowsMessage<Error>(AllOf(HasSubstr("q.jsonl:2"), HasSubstr("answer"))));
  EXPECT_THAT([&] { load_text(first + "not json")(); },
              ThrowsMessage<Error>(HasSubstr("q.jsonl:2")));
  EXPECT_THAT([&] { load_text("\n")(); }, ThrowsMessage<Error>(HasSubstr("no questions")));
}

TEST(Wilson, KnownIntervals) {
  // statsmodels.stats.proportion.proportion_confint(method="wilson")
  const auto [low, high] = wilson_interval({.correct = 8, .questions = 10});
  EXPECT_NEAR(low, 0.4901625, 1e-6);
  EXPECT_NEAR(high, 0.9433178, 1e-6);
  EXPECT_NEAR(wilson_interval({.correct = 0, .questions = 10}).second, 0.2775328, 1e-6);
  EXPECT_EQ(wilson_interval({}), (std::pair<double, double>(0, 1)));
}

TEST(Trim, WhiteSpaceOnly) {
  EXPECT_EQ(trim(" \t\r\n a b \n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
}

}  // namespace
}  // namespace reprise
