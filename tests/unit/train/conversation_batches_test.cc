// Conversations as training data: the tokens a model is trained on are those it will be asked with.
#include "train/data/conversation_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "support/paths.h"
#include "support/slow_tokenizers.h"
#include "train/train_tokenizer.h"

namespace reprise {
namespace {

using testing::HasSubstr;

struct Kind {
  std::string format;
  std::string tokenizer;  // a folder of slow.json, or a tokenizer.json below the source folder
};

class ConversationBatchesTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const Kind& kind = GetParam();
    format_ = chat_format(kind.format);
    TrainTokenizer files;
    if (kind.tokenizer.ends_with(".json"))
      files = read_tokenizer(test::source_dir() / kind.tokenizer);
    else
      files.files = test::slow_tokenizer_files(kind.tokenizer);
    const int64_t image = files.find_or_add(format_.image_placeholder);
    tokenizer_ = files.make();
    ASSERT_EQ(tokenizer_->find(format_.image_placeholder), image);
    Json json = load_json(test::source_dir() / "recipes/tiny-trol/config.json");
    json["llm_config"]["vocab_size"] = tokenizer_->vocab_size();
    json["image_token_index"] = image;
    config_ = config_from_json(json, "config.json");
    recipe_.path = "recipe.yaml";
    recipe_.train.push_back({});
    recipe_.train[0].generator = "easy-vqa";
    // Two pictures with the first question, one with the second.
    messages_ = {{"user", "what shape?\nand colour?", 2},
                 {"assistant", "a circle, \xc3\xa9t\xc3\xa9"},
                 {"user", " is it red?", 1},
                 {"assistant", "no"}};
    example_.images.assign(3, Image(64, 64));
    example_.conversation = messages_;
    image_tokens_.assign(3, config_.vision->tokens_per_tile());
  }

  // As the engine makes a prompt (engine/prompt.cc).
  std::vector<int32_t> prompt(std::span<const ChatMessage> messages) const {
    int64_t images = 0;
    for (const ChatMessage& message : messages) images += message.images;
    std::vector<int32_t> ids;
    bool after_image = false;
    for (const PromptPart& part :
         render_chat(format_, messages, std::span(image_tokens_).first(images))) {
      const std::vector<int32_t> tokens =
          part.image >= 0 ? std::vector<int32_t>(static_cast<size_t>(part.image_tokens),
                                                 static_cast<int32_t>(config_.image_token))
                          : tokenizer_->encode(part.text, {.continues = after_image});
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      after_image = after_image || part.image >= 0;
    }
    return ids;
  }
  static std::vector<int32_t> first(const std::vector<int32_t>& ids, int64_t count) {
    return {ids.begin(), ids.begin() + count};
  }

  ChatFormat format_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelConfig config_;
  Recipe recipe_;
  std::vector<ChatMessage> messages_;
  Example example_;
  std::vector<int64_t> image_tokens_;
};

TEST_P(ConversationBatchesTest, EveryAnswerFollowsThePromptItWillFollow) {
  const ConversationBatches maker(recipe_, {config_, tokenizer_.get(), format_});
  Batch batch;
  maker.add_example(example_, batch);
  ASSERT_EQ(batch.rows.segments.size(), 1u);
  EXPECT_EQ(batch.tiles, 3);
  EXPECT_EQ(static_cast<int64_t>(batch.image_rows.size()), 3 * config_.vision->tokens_per_tile());
  ASSERT_EQ(batch.answers.size(), 2u);
  for (const size_t turn : {size_t{0}, size_t{1}}) {
    const AnswerTargets& answer = batch.answers[turn];
    const std::vector<int32_t> asked = prompt(std::span(messages_).first(2 * turn + 1));
    const int64_t row = batch.target_rows[static_cast<size_t>(answer.first)];
    EXPECT_EQ(first(batch.ids, row + 1), asked) << "turn " << turn;
    const std::span targets =
        std::span(batch.targets)
            .subspan(static_cast<size_t>(answer.first), static_cast<size_t>(answer.count));
    const ChatMessage said = messages_[2 * turn + 1];
    EXPECT_THAT(tokenizer_->decode(targets), HasSubstr(said.content));
    // With what the next turn begins with: the whole conversation's tokens.
    std::vector<int32_t> whole = asked;
    whole.insert(whole.end(), targets.begin(), targets.end());
    const std::vector<int32_t> later = prompt(std::span(messages_).first(2 * turn + 2));
    EXPECT_EQ(first(later, std::ssize(whole)), whole) << "turn " << turn;
  }
  for (size_t i = 0; i < batch.rows.positions.size(); ++i)
    EXPECT_EQ(batch.rows.positions[i], static_cast<int32_t>(i));
}

TEST_P(ConversationBatchesTest, AQuestionAloneIsTheSameAsAConversationOfOneTurn) {
  const ConversationBatches maker(recipe_, {config_, tokenizer_.get(), format_});
  Example question;
  question.images.assign(2, Image(64, 64));
  question.turns = {{messages_[0].content, messages_[1].content}};
  Example conversation;
  conversation.images = question.images;
  conversation.conversation = {messages_[0], messages_[1]};
  Batch a, b;
  maker.add_example(question, a);
  maker.add_example(conversation, b);
  EXPECT_EQ(a.rows.segments.size(), 2u) << "pictures and question";
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.target_rows, b.target_rows);
  EXPECT_EQ(a.rows.positions, b.rows.positions);
}

TEST_P(ConversationBatchesTest, AWrongLastAnswerSharesAllThatComesBeforeIt) {
  const auto path = std::filesystem::path(testing::TempDir()) /
                    fmt::format("conversation-{}.jsonl", GetParam().format);
  Json lines = Json::array();
  for (const ChatMessage& message : messages_) {
    Json line = {{"role", message.role}, {"content", message.content}};
    if (message.images > 0)
      line["images"] = std::vector<std::string>(static_cast<size_t>(message.images), "circle.png");
    lines.push_back(line);
  }
  write_file_atomically(path, Json{{"messages", lines}, {"rejected", "yes"}}.dump() + "\n");
  recipe_.train[0].generator.clear();
  recipe_.train[0].file = path;
  recipe_.train[0].images = test::source_dir() / "models/demo";
  recipe_.batch = 1;
  const Batch batch =
      ConversationBatches(recipe_, {config_, tokenizer_.get(), format_, /*wrong_answers=*/true})
          .make(0);
  ASSERT_EQ(batch.answers.size(), 3u) << "the first answer, the right and the wrong last one";
  EXPECT_EQ(batch.pairs(), 1);
  EXPECT_FALSE(batch.answers[1].rejected);
  EXPECT_TRUE(batch.answers[2].rejected);
  ASSERT_EQ(batch.rows.segments.size(), 3u);
  EXPECT_EQ(batch.rows.segments[1].prefix, 0);
  EXPECT_EQ(batch.rows.segments[2].prefix, 0);
  EXPECT_EQ(batch.tiles, 3) << "pictures stand in the batch once";
  const std::vector<int32_t> asked = prompt(std::span(messages_).first(3));
  for (const size_t i : {size_t{1}, size_t{2}}) {  // both follow the same prompt
    const RowSegment& segment = batch.rows.segments[i];
    std::vector<int32_t> ids = first(batch.ids, batch.rows.segments[0].rows);
    ids.insert(ids.end(), batch.ids.begin() + segment.first_row,
               batch.ids.begin() + segment.first_row + segment.rows);
    const int64_t row = batch.target_rows[static_cast<size_t>(batch.answers[i].first)];
    const int64_t at = batch.rows.segments[0].rows + row - segment.first_row;
    EXPECT_EQ(first(ids, at + 1), asked);
  }
}

// An answer that begins with what its prompt ends with may become one token with it.
TEST(RejectedAnswer, ThatMergesWithThePromptSharesLess) {
  const std::filesystem::path folder(testing::TempDir());
  Json json = load_json(test::data_dir() / "text/smollm2.json");
  const std::string newline = "\u010a";  // as the byte-level alphabet writes it
  const int id = static_cast<int>(json["model"]["vocab"].size());
  json["model"]["vocab"][newline + newline] = id;
  json["model"]["merges"].push_back({newline, newline});
  write_file_atomically(folder / "merging.json", json.dump());
  TrainTokenizer files = read_tokenizer(folder / "merging.json");
  const ChatFormat format = chat_format("chatml-image");
  const int64_t image = files.find_or_add(format.image_placeholder);
  const auto tokenizer = files.make();
  Json model = load_json(test::source_dir() / "recipes/tiny-trol/config.json");
  model["llm_config"]["vocab_size"] = tokenizer->vocab_size();
  model["image_token_index"] = image;
  const ModelConfig config = config_from_json(model, "config.json");

  const Json question = {
      {"role", "user"}, {"content", "what is this?"}, {"images", {"circle.png"}}};
  const Json answer = {{"role", "assistant"}, {"content", "a circle"}};
  write_file_atomically(
      folder / "merging.jsonl",
      Json{{"messages", {question, answer}}, {"rejected", "\n\nno"}}.dump() + "\n");
  Recipe recipe;
  recipe.path = "recipe.yaml";
  recipe.train.push_back({});
  recipe.train[0].file = folder / "merging.jsonl";
  recipe.train[0].images = test::source_dir() / "models/demo";
  recipe.batch = 1;
  const Batch batch =
      ConversationBatches(recipe, {config, tokenizer.get(), format, /*wrong_answers=*/true})
          .make(0);
  ASSERT_EQ(batch.answers.size(), 2u);
  EXPECT_EQ(batch.tiles, 1);
  EXPECT_EQ(std::ssize(batch.image_rows), config.vision->tokens_per_tile());
  EXPECT_EQ(batch.rows.segments.size(), 3u) << "the prompt less its last tokens, two answers";
  const AnswerTargets& wrong = batch.answers[1];
  EXPECT_EQ(batch.targets[static_cast<size_t>(wrong.first)], id)
      << "the prompt's newline and the answer's first";
  // Its first token is predicted by the token before the prompt's newline.
  EXPECT_EQ(
      tokenizer->decode(std::span(batch.ids).subspan(
          static_cast<size_t>(batch.target_rows[static_cast<size_t>(wrong.first)]), 1)),
      tokenizer->decode(std::span(batch.ids).subspan(
          static_cast<size_t>(batch.target_rows[static_cast<size_t>(batch.answers[0].first)]) - 1,
          1)));
}

TEST_P(ConversationBatchesTest, APlaceholderInTheTextIsRefused) {
  const ConversationBatches maker(recipe_, {config_, tokenizer_.get(), format_});
  example_.conversation[2].content += format_.image_placeholder;
  Batch batch;
  EXPECT_THAT([&] { maker.add_example(example_, batch); },
              testing::ThrowsMessage<Error>(HasSubstr("the picture's placeholder itself")));
}

INSTANTIATE_TEST_SUITE_P(
    Tokenizers, ConversationBatchesTest,
    testing::Values(Kind{"plain-qa", "recipes/tiny-trol/tokenizer.json"},
                    Kind{"chatml-image", "tests/data/text/smollm2.json"},
                    Kind{"trol-internlm2", "trol-internlm2"},
                    Kind{"trol-internlm2", "internlm2-legacy-files"}, Kind{"trol-phi3", "phi3"},
                    Kind{"phantom-phi3", "phi3-legacy"}, Kind{"phantom-qwen2", "qwen2"}),
    [](const auto& info) {
      std::string name =
          info.param.format + "_" + std::filesystem::path(info.param.tokenizer).stem().string();
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace reprise
