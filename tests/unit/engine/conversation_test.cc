#include "engine/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/generator.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::copy_model;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::test_data;
using ::testing::ThrowsMessage;

class ConversationTest : public ::testing::Test {
 protected:
  std::unique_ptr<LoadedModel> load(const std::string& name) {
    copy_model(name, folder_ / "model");
    LoadedModelOptions options;
    options.model = folder_ / "model";
    options.compute.threads = 1;
    return LoadedModel::load(options);
  }
  // TroL on InternLM2 as released: a flat config.json, tokenizer.model, "<image>" one above the
  // vocabulary.
  std::unique_ptr<LoadedModel> load_trol() {
    std::filesystem::create_directories(folder_ / "model");
    std::filesystem::copy(test_data("golden/trol/internlm2-clip/model"), folder_ / "model");
    std::filesystem::copy_file(test_data("text/spm-tiny.model"), folder_ / "model/tokenizer.model");
    const Json data = load_json(test_data("text/prompts.json"));
    const Json& files = data["folders"][0];
    EXPECT_EQ(files["name"], "trol-internlm2");
    write_file_atomically(folder_ / "model/tokenizer_config.json",
                          files["files"]["tokenizer_config.json"].get<std::string>());
    LoadedModelOptions options;
    options.model = folder_ / "model";
    options.compute.threads = 1;
    return LoadedModel::load(options);
  }
  std::string write(const std::string& text) {
    write_file_atomically(folder_ / "chat.json", text);
    return (folder_ / "chat.json").string();
  }
  const std::filesystem::path one_file_ = test_data("golden/trol/phi3-vit-448/image.png");
  const std::filesystem::path two_file_ = test_data("golden/phantom/qwen2-vit-448/image.png");
  const Picture one_ = Picture::read(one_file_), two_ = Picture::read(two_file_);
  TempFolder folder_;
};

TEST_F(ConversationTest, ATrolConfigMayLeaveTheImageTokenToTheTokenizer) {
  copy_model("trol/phi3-vit", folder_ / "model");
  testing::edit_json(folder_ / "model/config.json",
                     [](Json& json) { json.erase("image_token_index"); });
  LoadedModelOptions options;
  options.model = folder_ / "model";
  options.compute.threads = 1;
  const auto loaded = LoadedModel::load(options);
  EXPECT_EQ(loaded->config().image_token, 5) << "<IMG_CONTEXT> of the test tokenizer";
  PromptBuilder builder(*loaded);
  const TokenPrompt shown = builder.chat({{"user", "what shape", {one_}}}).tokens;
  EXPECT_EQ(std::count(shown.is_image.begin(), shown.is_image.end(), 1), shown.image_rows.dim(0));

  std::filesystem::remove(folder_ / "model/tokenizer.json");
  std::filesystem::remove(folder_ / "model/tokenizer_config.json");
  const auto bare = LoadedModel::load(options);
  TokenPrompt prompt;
  prompt.ids = {5};
  prompt.image_rows = bare->backend().from_host(std::vector<float>(64), {1, 64});
  EXPECT_THAT(
      [&] { mark_placeholders(bare->config(), prompt, "inputs"); },
      ThrowsMessage<Error>(AllOf(HasSubstr("config.json"), HasSubstr("image_token_index"))));
}

TEST_F(ConversationTest, PicturesBelongToTheirTurns) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  Conversation chat("", {one_});
  const Prompt first = builder.chat(chat.ask("what shape"));
  EXPECT_GT(first.vision_seconds, 0);
  chat.answered("what shape", "a circle");
  EXPECT_TRUE(chat.pending_images().empty());
  chat.enter("/image " + two_file_.string());
  chat.enter("/image " + one_file_.string());
  const Prompt second = builder.chat(chat.ask("what colour"));
  EXPECT_EQ(second.tiles, 2 * first.tiles + builder.chat({{"user", "x", {two_}}}).tiles);
  // The whole conversation again: it begins with the first prompt, ids, picture and all.
  const auto& ids = second.tokens.ids;
  ASSERT_GT(ids.size(), first.tokens.ids.size());
  EXPECT_TRUE(std::equal(first.tokens.ids.begin(), first.tokens.ids.end(), ids.begin()));
  EXPECT_THAT(loaded->tokenizer().decode(ids), HasSubstr("a circle<|im_end|><|im_start|>user"));
  const int64_t rows = first.tokens.image_rows.dim(0);
  EXPECT_EQ(
      loaded->backend().to_host(loaded->backend().slice(second.tokens.image_rows, 0, 0, rows)),
      loaded->backend().to_host(first.tokens.image_rows));
  // Asked again, nothing is encoded again.
  EXPECT_EQ(builder.chat(chat.ask("what colour")).vision_seconds, 0);
}

// TroL on InternLM2 as released: a flat config.json, tokenizer.model, "<image>" one above the
// vocabulary.
TEST_F(ConversationTest, TrolOnInternLm2) {
  const auto loaded = load_trol();
  const Json data = load_json(test_data("text/prompts.json"));
  EXPECT_EQ(loaded->chat_format()->name, "trol-internlm2");
  EXPECT_EQ(loaded->config().image_token, 320);
  PromptBuilder builder(*loaded);
  const Json& expected = data["cases"][1];  // 3 placeholders; the model has 36 a picture
  const Prompt prompt = builder.chat({{"user", expected["question"], {one_}}});
  std::vector<int32_t> ids = expected["ids"];
  const auto image = std::find(ids.begin(), ids.end(), 320);
  ids.insert(image, 33, 320);
  EXPECT_EQ(prompt.tokens.ids, ids);
  EXPECT_THAT(prompt.stops, ElementsAre("[UNUSED_TOKEN_145]"));
  EXPECT_FALSE(Generator(*loaded, {}).generate(prompt, {.max_tokens = 3}).tokens.empty());
}

// More pictures than the cache holds of itself.
TEST_F(ConversationTest, AllPicturesOfAConversationStayEncoded) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  std::vector<Picture> pictures;
  const std::string bytes = read_file(one_file_);
  for (int i = 0; i < 10; ++i) {  // bytes behind the picture's end make them differ
    pictures.emplace_back(fmt::format("{}.png", i), bytes + static_cast<char>('0' + i));
  }
  const std::vector<ChatTurn> turns = {{"user", "x", pictures}};
  EXPECT_GT(builder.chat(turns).vision_seconds, 0);
  EXPECT_EQ(builder.chat(turns).vision_seconds, 0);
}

// A second turn answers the same with what the first left in the prefix cache and without it.
TEST_F(ConversationTest, PicturesStayEncodedWhileThereIsRoom) {
  const auto loaded = load("phantom/qwen2-vit");
  for (const int64_t bytes : {int64_t{0}, int64_t{1} << 30}) {
    PromptBuilder builder(*loaded, bytes);
    const auto seconds = [&](int i) {
      const std::string marked = read_file(one_file_) + std::to_string(i);  // behind the PNG
      return builder.chat({{"user", "a", {Picture("a.png", marked)}}}).vision_seconds;
    };
    for (int i = 0; i < 10; ++i) EXPECT_GT(seconds(i), 0);
    EXPECT_EQ(seconds(9), 0);
    EXPECT_EQ(seconds(0) > 0, bytes == 0);
  }
}

TEST_F(ConversationTest, SecondTurnIsExact) {
  const auto loaded = load_trol();
  PromptBuilder builder(*loaded);
  GeneratorOptions reuse;
  reuse.reuse_prefix = true;
  Generator chatting(*loaded, reuse), fresh(*loaded, {});
  GenerationOptions options;
  options.max_tokens = 4;
  Conversation chat("be brief", {one_});
  const Generation first = chatting.generate(builder.chat(chat.ask("what shape")), options);
  chat.answered("what shape", first.text);
  const Prompt second = builder.chat(chat.ask("what colour"));
  const Generation with = chatting.generate(second, options);
  EXPECT_GT(with.reused_tokens, first.prompt_tokens / 2);
  EXPECT_EQ(with.tokens, fresh.generate(second, options).tokens);
  EXPECT_EQ(with.first_logits, fresh.generate(second, options).first_logits);
}

// The bytes are what a picture is, not the name; and its file may be gone by the next turn.
TEST_F(ConversationTest, PicturesAreKnownByTheirBytes) {
  const auto loaded = load("phantom/qwen2-vit");
  PromptBuilder builder(*loaded);
  const std::filesystem::path file = folder_ / "a.png";
  std::filesystem::copy_file(one_file_, file);
  Conversation chat("", {});
  chat.enter("/image " + file.string());
  std::filesystem::remove(file);
  const Prompt first = builder.chat(chat.ask("what shape"));
  EXPECT_EQ(first.tokens.pictures.at(0).key, (PictureKey{one_.sha256(), false}));
  EXPECT_EQ(to_hex(one_.sha256()),
            "0f8649fb0874c0cf73288b379f294139e13201e29336eccc162359750a8cdc22");
  EXPECT_EQ(builder.chat({{"user", "x", {one_}}}).vision_seconds, 0);
  EXPECT_GT(builder.chat({{"user", "x", {two_}}}).vision_seconds, 0);
  // The same bytes turned as EXIF says are encoded for themselves.
  EXPECT_GT(builder.chat({{"user", "x", {one_}}}, {.apply_exif = true}).vision_seconds, 0);
}

TEST_F(ConversationTest, LargePictureFilesAreRefusedUnread) {
  const std::filesystem::path file = folder_ / "large.png";
  write_file_atomically(file, "x");
  std::filesystem::resize_file(file, uint64_t{1} << 40);  // holes: no such memory, nor disk
  EXPECT_THAT([&] { Picture::read(file); },
              ThrowsMessage<Error>(AllOf(HasSubstr("large.png"), HasSubstr("limit"))));
  EXPECT_THAT([] { Picture("posted", std::string((size_t{64} << 20) + 1, 'x')); },
              ThrowsMessage<Error>(AllOf(HasSubstr("posted"), HasSubstr("limit"))));
}

TEST_F(ConversationTest, Commands) {
  Conversation chat("", {});
  EXPECT_TRUE(chat.enter("what is it?").question);
  EXPECT_TRUE(chat.enter("/etc/passwd is what?").question);
  EXPECT_FALSE(chat.enter("   ").question);
  EXPECT_THAT(chat.enter("/help").answer, AllOf(HasSubstr("/image"), HasSubstr("/clear")));
  EXPECT_THAT([&] { chat.enter("/image"); }, ThrowsMessage<Error>(HasSubstr("picture file")));
  EXPECT_THAT([&] { chat.enter("/image /nowhere.png"); },
              ThrowsMessage<Error>(HasSubstr("/nowhere.png")));
  EXPECT_THAT(chat.enter("  /image  " + one_file_.string() + " ").answer,
              HasSubstr("1 picture for"));
  ASSERT_EQ(chat.pending_images().size(), 1u);
  EXPECT_EQ(chat.pending_images()[0].sha256(), one_.sha256());
  chat.answered("a", "b");
  EXPECT_EQ(chat.turns().size(), 2u);
  EXPECT_EQ(chat.turns()[0].images.size(), 1u);
  EXPECT_FALSE(chat.enter("/clear").question);
  EXPECT_TRUE(chat.turns().empty());
}

TEST_F(ConversationTest, File) {
  std::filesystem::copy_file(one_file_, folder_ / "a.png");
  const auto turns = load_conversation(
      write(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "x", "images":
                ["a.png"]}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}])"));
  ASSERT_EQ(turns.size(), 4u);
  ASSERT_EQ(turns[1].images.size(), 1u);
  EXPECT_EQ(turns[1].images[0].name(), folder_ / "a.png");
  EXPECT_EQ(turns[1].images[0].sha256(), one_.sha256());
  EXPECT_EQ(turns[3].text, "z");
}

TEST_F(ConversationTest, FileErrors) {
  const std::pair<const char*, const char*> bad[] = {
      {"{}", "list of messages"},
      {"[]", "an empty one"},
      {"[3]", "[0]"},
      {R"([{"role": "user"}])", "'[0].content'"},
      {R"([{"role": "tool", "content": "x"}])", "'[0].role'"},
      {R"([{"role": "user", "content": "x", "image": "a.png"}])", "'[0].image'"},
      {R"([{"role": "user", "content": "x", "images": "a.png"}])", "'[0].images'"},
      {R"([{"role": "user", "content": "x", "images": [1]}])", "'[0].images'"},
      {R"([{"role": "user", "content": "x", "images": ["no.png"]}])", "no.png"},
      {R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])",
       "'[1].role'"},
      {R"([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}])", "as the first"},
      {R"([{"role": "assistant", "content": "x", "images": ["a.png"]}])", "'[0].images'"},
      {"[", "chat.json"}};
  for (const auto& [text, expected] : bad) {
    const std::string file = write(text);
    const std::string part = expected;
    EXPECT_THAT([&] { load_conversation(file); },
                ThrowsMessage<Error>(AllOf(HasSubstr("chat.json"), HasSubstr(part))))
        << text;
  }
}

}  // namespace
}  // namespace reprise
