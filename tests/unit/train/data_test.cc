#include "train/data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "support/paths.h"
#include "text/tokenizer_json.h"
#include "train/easy_vqa.h"

namespace reprise {
namespace {

using testing::HasSubstr;
const std::filesystem::path kRecipe = test::source_dir() / "recipes/tiny-trol";

TEST(EasyVqa, IsAPureFunctionOfSeedAndNumber) {
  const Example a = draw_easy_vqa(1, 5, 6), b = draw_easy_vqa(1, 5, 6), c = draw_easy_vqa(2, 5, 6);
  EXPECT_EQ(a.image.pixels, b.image.pixels);
  EXPECT_NE(a.image.pixels, c.image.pixels);
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
    ASSERT_EQ(example.image.width, 64);
    ASSERT_EQ(example.image.height, 64);
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
    for (size_t p = 0; p < example.image.pixels.size(); p += 3) {
      const uint8_t* rgb = example.image.pixels.data() + p;
      (rgb[0] >= 230 && rgb[1] >= 230 && rgb[2] >= 230 ? light : other)++;
    }
    EXPECT_GT(light, 64 * 64 / 2);
    EXPECT_GT(other, 20);
  }
  EXPECT_EQ(answers.size(), 13u);
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
    tokenizer_ = tokenizer_from_json(load_json(kRecipe / "tokenizer.json"), nullptr, "t");
  }
  Recipe recipe_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Batches, OnePictureIsThePrefixOfItsQuestions) {
  const BatchMaker maker(recipe_, config_, *tokenizer_);
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
  const BatchMaker maker(recipe_, config_, *tokenizer_);
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

TEST_F(Batches, AreAPureFunctionOfTheirIndex) {
  const BatchMaker one(recipe_, config_, *tokenizer_), other(recipe_, config_, *tokenizer_);
  other.make(1);
  EXPECT_EQ(one.make(5).pixels, other.make(5).pixels);
  EXPECT_EQ(one.make(5).ids, other.make(5).ids);
  EXPECT_NE(one.make(5).pixels, one.make(6).pixels);
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
  EXPECT_THAT(error_of("{oops"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("\n\n"), HasSubstr("holds no questions"));
  EXPECT_THAT(error_of("{\"image\": \"none.png\", \"question\": \"a\", \"answer\": \"b\"}"),
              HasSubstr("none.png"));
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
  EXPECT_EQ(source->get(0).image.width, 64);
}

}  // namespace
}  // namespace reprise
