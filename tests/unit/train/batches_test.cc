#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "support/paths.h"
#include "support/tokenizers.h"
#include "train/data/conversation_batches.h"
#include "train/data/easy_vqa.h"

namespace reprise {
namespace {

using testing::HasSubstr;
const ChatFormat& kFormat = chat_format("plain-qa");
const std::filesystem::path kRecipe = test::source_dir() / "recipes/tiny-trol";

TEST(EasyVqa, IsAPureFunctionOfSeedAndNumber) {
  const Example a = draw_easy_vqa(1, 5, 6), b = draw_easy_vqa(1, 5, 6), c = draw_easy_vqa(2, 5, 6);
  EXPECT_EQ(a.images[0].pixels, b.images[0].pixels);
  EXPECT_NE(a.images[0].pixels, c.images[0].pixels);
  ASSERT_EQ(a.turns.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(a.turns[i].question, b.turns[i].question);
}

TEST(EasyVqa, PicturesShowWhatTheAnswersSay) {
  const std::vector<std::string> shapes = {"circle", "rectangle", "triangle"};
  const std::vector<std::string> colours = {"red",  "green", "blue",  "black",
                                            "gray", "teal",  "brown", "yellow"};
  std::set<std::string> answers;
  for (int64_t i = 0; i < 300; ++i) {
    EasyVqaScene scene;
    const Example example = draw_easy_vqa(3, i, 10, &scene);
    ASSERT_EQ(example.images[0].width, 64);
    ASSERT_EQ(example.images[0].height, 64);
    const std::string shape = shapes[static_cast<size_t>(scene.shape)];
    const std::string colour = colours[static_cast<size_t>(scene.colour)];
    std::set<std::string> questions;
    for (const QuestionAnswer& turn : example.turns) {
      EXPECT_TRUE(questions.insert(turn.question).second) << "asked twice: " << turn.question;
      answers.insert(turn.answer);
      if (turn.answer == "yes" || turn.answer == "no") {
        const bool names_it = turn.question.find(" " + shape) != std::string::npos ||
                              turn.question.find(" " + colour + " ") != std::string::npos;
        const bool negated = turn.question.find(" not ") != std::string::npos ||
                             turn.question.find(" no ") != std::string::npos;
        EXPECT_EQ(turn.answer == "yes", names_it != negated) << turn.question;
      } else {
        EXPECT_TRUE(turn.answer == shape || turn.answer == colour) << turn.question;
      }
    }
    int light = 0, other = 0;  // background and shape
    for (size_t p = 0; p < example.images[0].pixels.size(); p += 3) {
      const uint8_t* rgb = example.images[0].pixels.data() + p;
      (rgb[0] >= 230 && rgb[1] >= 230 && rgb[2] >= 230 ? light : other)++;
    }
    EXPECT_GT(light, 64 * 64 / 2);
    EXPECT_GT(other, 20);
  }
  EXPECT_EQ(answers.size(), 13u);
}

TEST(EasyVqa, WrongAnswersFitTheQuestionAndAreConfusable) {
  const std::vector<std::string> shapes = {"circle", "rectangle", "triangle"};
  const std::map<std::string, std::set<std::string>> near = {
      {"red", {"brown", "gray"}}, {"green", {"teal", "gray"}}, {"black", {"brown", "teal"}}};
  std::map<std::string, std::set<std::string>> seen;
  for (int64_t i = 0; i < 200; ++i) {
    for (const QuestionAnswer& turn : draw_easy_vqa(4, i, 8).turns) {
      const std::string wrong = confusing_easy_vqa_answer(turn, 1, static_cast<uint64_t>(i));
      EXPECT_EQ(wrong, confusing_easy_vqa_answer(turn, 1, static_cast<uint64_t>(i)));
      EXPECT_NE(wrong, turn.answer);
      const bool yes_no = turn.answer == "yes" || turn.answer == "no";
      EXPECT_EQ(yes_no, wrong == "yes" || wrong == "no") << turn.question;
      const auto is_shape = [&](const std::string& a) {
        return std::find(shapes.begin(), shapes.end(), a) != shapes.end();
      };
      EXPECT_EQ(is_shape(turn.answer), is_shape(wrong)) << turn.question;
      seen[turn.answer].insert(wrong);
    }
  }
  EXPECT_EQ(seen.size(), 13u);
  for (const auto& [colour, expected] : near) EXPECT_EQ(seen[colour], expected) << colour;
  EXPECT_EQ(seen["circle"], (std::set<std::string>{"rectangle", "triangle"}));
  EXPECT_THROW(confusing_easy_vqa_answer({"how many?", "three"}, 1, 0), Error);
}

class Batches : public testing::Test {
 protected:
  Batches() {
    recipe_.path = "recipe.yaml";
    recipe_.train.push_back({});
    recipe_.train[0].generator = "easy-vqa";
    recipe_.train[0].flips = recipe_.train[0].quarter_turns = true;
    recipe_.batch = 3;
    recipe_.questions_per_image = 4;
    config_ = config_from_json(load_json(kRecipe / "config.json"), "config.json");
    tokenizer_ = test::tokenizer_from_json(load_json(kRecipe / "tokenizer.json"), nullptr, "t");
  }
  BatchSourceInputs inputs(bool wrong_answers = false) const {
    return {config_, tokenizer_.get(), kFormat, wrong_answers};
  }
  Recipe recipe_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Batches, OnePictureIsThePrefixOfItsQuestions) {
  const ConversationBatches maker(recipe_, inputs());
  const Batch batch = maker.make(7);
  const int64_t image_tokens = config_.vision->tokens_per_tile();
  EXPECT_EQ(batch.tiles, 3);
  EXPECT_EQ(batch.pixels.size(), size_t{3 * 3 * 64 * 64});
  ASSERT_EQ(batch.rows.segments.size(), size_t{3 * (1 + 4)});
  EXPECT_EQ(batch.image_rows.size(), static_cast<size_t>(3 * image_tokens));
  int64_t next = 0;
  for (size_t s = 0; s < batch.rows.segments.size(); ++s) {
    const RowSegment& segment = batch.rows.segments[s];
    EXPECT_EQ(segment.first_row, next);
    next += segment.rows;
    const bool picture = s % 5 == 0;
    EXPECT_EQ(segment.prefix, picture ? -1 : static_cast<int>(s / 5 * 5));
    EXPECT_EQ(batch.rows.positions[static_cast<size_t>(segment.first_row)],
              picture ? 0 : image_tokens);
  }
  EXPECT_EQ(next, batch.rows.size());
}

TEST_F(Batches, TargetsSpellTheAnswersAndFollowTheirQuestions) {
  const ConversationBatches maker(recipe_, inputs());
  const Batch batch = maker.make(0);
  ASSERT_EQ(batch.targets.size(), batch.target_rows.size());
  const std::string text = tokenizer_->decode(batch.targets);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 12);  // one end a question
  for (size_t i = 0; i + 1 < batch.targets.size(); ++i) {
    // Where an answer goes on, its token is the next row's input.
    if (batch.target_rows[i + 1] == batch.target_rows[i] + 1) {
      EXPECT_EQ(batch.ids[static_cast<size_t>(batch.target_rows[i + 1])], batch.targets[i]);
    }
  }
}

TEST_F(Batches, WrongAnswersFollowTheRightOnesForPreferenceTraining) {
  recipe_.train[0].wrong_answers = "easy-vqa";
  const ConversationBatches maker(recipe_, inputs(/*wrong_answers=*/true));
  const Batch batch = maker.make(7);
  ASSERT_EQ(batch.answers.size(), size_t{2 * 3 * 4});
  EXPECT_EQ(batch.pairs(), 12);
  EXPECT_EQ(batch.rows.segments.size(), size_t{3 * (1 + 2 * 4)});
  int64_t next = 0, right = 0;
  for (size_t i = 0; i < batch.answers.size(); ++i) {
    const AnswerTargets& answer = batch.answers[i];
    EXPECT_EQ(answer.first, next);
    EXPECT_EQ(answer.rejected, i % 2 == 1);
    next += answer.count;
    if (!answer.rejected) right += answer.count;
    if (answer.rejected) {  // the same question, another answer
      const auto text = [&](const AnswerTargets& a) {
        return tokenizer_->decode(
            std::span(batch.targets)
                .subspan(static_cast<size_t>(a.first), static_cast<size_t>(a.count)));
      };
      EXPECT_NE(text(answer), text(batch.answers[i - 1]));
    }
  }
  EXPECT_EQ(next, static_cast<int64_t>(batch.targets.size()));
  EXPECT_EQ(batch.right_targets(), right);
  recipe_.train[0].wrong_answers.clear();
  const ConversationBatches without(recipe_, inputs(/*wrong_answers=*/true));
  EXPECT_THAT([&] { without.make(0); }, testing::ThrowsMessage<Error>(HasSubstr("'rejected'")));
}

TEST_F(Batches, AreAPureFunctionOfTheirIndex) {
  const ConversationBatches one(recipe_, inputs());
  const ConversationBatches other(recipe_, inputs());
  other.make(1);
  EXPECT_EQ(one.make(5).pixels, other.make(5).pixels);
  EXPECT_EQ(one.make(5).ids, other.make(5).ids);
  EXPECT_NE(one.make(5).pixels, one.make(6).pixels);
}

TEST_F(Batches, ComeInOrderAndGoOnFromAnyPosition) {
  ConversationBatches source(recipe_, inputs());
  EXPECT_EQ(source.position(), "0");
  EXPECT_EQ(source.next().ids, source.make(0).ids);
  EXPECT_EQ(source.next().ids, source.make(1).ids);
  const std::string position = source.position();
  const Batch third = source.next();
  ConversationBatches resumed(recipe_, inputs());
  resumed.seek(position, "checkpoint");
  const Batch again = resumed.next();
  EXPECT_EQ(again.ids, third.ids);
  EXPECT_EQ(again.pixels, third.pixels);
  EXPECT_EQ(resumed.position(), source.position());
  for (const char* wrong : {"", "-1", "3x", "epoch 2", "99999999999999999999"})
    EXPECT_THAT([&] { resumed.seek(wrong, "checkpoint"); },
                testing::ThrowsMessage<Error>(HasSubstr("checkpoint: '")));
  EXPECT_EQ(resumed.position(), source.position());
}

TEST_F(Batches, FilesOfQuestionsAreTold) {
  const std::filesystem::path file =
      std::filesystem::path(testing::TempDir()) / "reprise-batches-told.jsonl";
  recipe_.train[0] = {};
  recipe_.train[0].file = file;
  const auto fingerprints = [&](const std::string& answer) {
    write_file_atomically(file, R"({"question": "is it?", "answer": ")" + answer + "\"}\n");
    return ConversationBatches(recipe_, inputs()).fingerprints();
  };
  const Fingerprints yes = fingerprints("yes");
  ASSERT_TRUE(yes.contains("data.train[0].file"));
  EXPECT_NE(fingerprints("no"), yes);
  EXPECT_EQ(fingerprints("yes"), yes);
  // What doesn't fit into the model's context is said with the file.
  EXPECT_THAT([&] { fingerprints(std::string(20000, 'y')); },
              testing::ThrowsMessage<Error>(testing::AllOf(
                  HasSubstr(file.string()), HasSubstr("the context of"), HasSubstr("'is it?'"))));
  std::filesystem::remove(file);
}

TEST_F(Batches, DroppedPixelsAreMadeAgain) {
  const ConversationBatches maker(recipe_, inputs());
  Batch batch = maker.make(3);
  const std::vector<float> pixels = batch.pixels;
  batch.drop_inputs();
  EXPECT_EQ(batch.pixels.capacity(), 0u);
  EXPECT_EQ(batch.tiles, 3);
  batch.make_inputs();
  EXPECT_EQ(batch.pixels, pixels);
  batch.make_pixels = {};  // nothing could make them again
  batch.drop_inputs();
  EXPECT_EQ(batch.pixels, pixels);
}

TEST(EasyVqa, NoMoreQuestionsThanThereAre) {
  for (const int asked : {kEasyVqaQuestions, 100000})
    EXPECT_EQ(std::ssize(draw_easy_vqa(1, 2, asked).turns), kEasyVqaQuestions);
}

TEST(QuestionFile, ErrorsNameFileLineAndKey) {
  const auto path = std::filesystem::path(testing::TempDir()) / "questions.jsonl";
  const auto error_of = [&](const std::string& text) -> std::string {
    write_file_atomically(path, text);
    try {
      load_question_file(path, testing::TempDir());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of("{\"question\": \"a\", \"answer\": \"b\"}\n"), "");
  EXPECT_THAT(error_of("\n{\"question\": \"a\"}\n"),
              testing::AllOf(HasSubstr("questions.jsonl:2"), HasSubstr("'answer'")));
  EXPECT_THAT(error_of("{\"question\": \"a\", \"answer\": \"b\", \"rejected\": \"b\"}"),
              HasSubstr("'rejected'"));
  EXPECT_THAT(error_of("{oops"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("\n\n"), HasSubstr("holds no questions"));
  EXPECT_THAT(error_of("{\"image\": \"none.png\", \"question\": \"a\", \"answer\": \"b\"}"),
              testing::AllOf(HasSubstr("questions.jsonl:1"), HasSubstr("none.png")));
  EXPECT_THAT(error_of(R"({"image": "a", "images": ["b"], "question": "a", "answer": "b"})"),
              HasSubstr("'images': is given beside 'image'"));
  EXPECT_THAT(error_of(R"({"images": "b", "question": "a", "answer": "b"})"),
              HasSubstr("'images': expected an array"));
  EXPECT_THAT(error_of(R"({"messages": [{"role": "user", "content": "a"}]})"),
              HasSubstr("'messages': expected the last to be the assistant's, found 'user'"));
  EXPECT_THAT(error_of(R"({"messages": [{"role": "robot", "content": "a"}]})"),
              testing::AllOf(HasSubstr("'[0].role'"), HasSubstr("questions.jsonl:1")));
  EXPECT_THAT(error_of(R"({"messages": [{"role": "assistant", "content": "a"}], "answer": "b"})"),
              HasSubstr("'answer': is given beside 'messages'"));
}

TEST(QuestionFile, LinesWithOnePictureAreOneExample) {
  const auto path = std::filesystem::path(testing::TempDir()) / "grouped.jsonl";
  const auto images = test::source_dir() / "models/demo";
  write_file_atomically(path,
                        "{\"image\":\"circle.png\",\"question\":\"a\",\"answer\":\"1\"}\n"
                        "{\"image\":\"triangle.png\",\"question\":\"b\",\"answer\":\"2\"}\n"
                        "{\"image\":\"circle.png\",\"question\":\"c\",\"answer\":\"3\"}\n");
  const auto source = load_question_file(path, images);
  ASSERT_EQ(source->size(), 2);
  ASSERT_EQ(source->get(0).turns.size(), 2u);
  EXPECT_EQ(source->get(0).turns[1].answer, "3");
  EXPECT_EQ(source->get(0).images[0].width, 64);
}

TEST(QuestionFile, ConversationsKeepTheirPicturesInOrder) {
  const auto path = std::filesystem::path(testing::TempDir()) / "conversations.jsonl";
  write_file_atomically(
      path,
      Json::parse(
          R"({"messages": [{"role": "user", "content": "a", "images": ["circle.png", "triangle.png"]},
              {"role": "assistant", "content": "1"}, {"role": "user", "content": "b"},
              {"role": "assistant", "content": "no"}]})")
              .dump() +
          "\n" + R"({"question": "c", "answer": "2", "images": ["circle.png", "triangle.png"]})" +
          "\n" + R"({"question": "d", "answer": "3", "images": ["triangle.png", "circle.png"]})" +
          "\n" + R"({"question": "e", "answer": "4", "images": ["circle.png", "triangle.png"]})");
  const auto images = test::source_dir() / "models/demo";
  for (const int64_t kept : {kKeptPictureBytes, int64_t{0}}) {  // decoded once, or at every use
    const auto source = load_question_file(path, images, kept);
    ASSERT_EQ(source->size(), 3) << "the other order of pictures is another example";
    const Example conversation = source->get(0);
    ASSERT_EQ(conversation.conversation.size(), 4u);
    EXPECT_EQ(conversation.conversation[0].images, 2);
    EXPECT_TRUE(conversation.turns.empty());
    const Example questions = source->get(1), other = source->get(2);
    ASSERT_EQ(questions.turns.size(), 2u);
    EXPECT_EQ(questions.turns[1].answer, "4");
    ASSERT_EQ(questions.images.size(), 2u);
    EXPECT_EQ(questions.images[0].pixels, conversation.images[0].pixels);
    EXPECT_EQ(questions.images[1].pixels, other.images[0].pixels);
    EXPECT_NE(questions.images[1].pixels, questions.images[0].pixels);
  }
  const auto wrong = with_wrong_answers(load_question_file(path, images), "easy-vqa", 1);
  EXPECT_EQ(wrong->get(0).rejected, "yes");
}

}  // namespace
}  // namespace reprise
