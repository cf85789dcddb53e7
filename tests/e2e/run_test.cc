// `reprise run` and the program as a whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/paths.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const std::string kPicture = test_data("golden/trol/phi3-vit-448/image.png").string();

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    copy_model("rrt/llama", folder_ / "llama");
    copy_model("phantom/qwen2-vit", folder_ / "phantom");
    copy_model("trol/phi3-vit", folder_ / "trol");
    llama_ = (folder_ / "llama").string();
    phantom_ = (folder_ / "phantom").string();
    trol_ = (folder_ / "trol").string();
  }
  // Runs with --json and returns the object.
  static Json run_json(std::vector<std::string> arguments, const ProgramOptions& options = {}) {
    arguments.insert(arguments.begin(), "run");
    arguments.push_back("--json");
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  TempFolder folder_;
  std::string llama_, phantom_, trol_;
};

TEST_F(RunTest, StreamsTheTextThatJsonReports) {
  const Json json = run_json({llama_, "--prompt", "what shape", "--max-tokens", "12"});
  EXPECT_EQ(json["generated_tokens"], 12);
  EXPECT_EQ(json["tokens"].size(), 12u);
  EXPECT_EQ(json["stop"], "length");
  EXPECT_EQ(json["depth"]["plan"], "0-5");
  EXPECT_GT(json["memory"]["kv_bytes"], 0);
  EXPECT_GT(json["memory"]["peak_rss"], 0);

  const ProgramResult text =
      run_program({"run", llama_, "--prompt", "what shape", "--max-tokens", "12"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.out, json["text"].get<std::string>() + "\n");
  EXPECT_THAT(text.err, AllOf(HasSubstr("depth 6 of 6 blocks"), HasSubstr("tokens/s")));
  const ProgramResult quiet =
      run_program({"run", llama_, "--prompt", "what shape", "--max-tokens", "12", "--quiet"});
  EXPECT_EQ(quiet.out, text.out);
  EXPECT_EQ(quiet.err, "");
}

TEST_F(RunTest, PromptFromStdinIsThePromptOption) {
  const Json option = run_json({llama_, "--max-tokens", "5", "--prompt", "what shape"});
  const Json input = run_json({llama_, "--max-tokens", "5"}, {.input = "what shape\n"});
  EXPECT_EQ(option["prompt_ids"], input["prompt_ids"]);
  EXPECT_EQ(option["tokens"], input["tokens"]);
}

// The newline that ends a text's last line is not part of the prompt; others are.
TEST_F(RunTest, PipedNewlinesArePartOfThePrompt) {
  const auto ids = [&](const std::string& prompt) {
    return run_json({llama_, "--raw", "--max-tokens", "1", "--prompt", prompt})["prompt_ids"];
  };
  const auto piped = [&](const std::string& input) {
    return run_json({llama_, "--raw", "--max-tokens", "1"}, {.input = input})["prompt_ids"];
  };
  EXPECT_NE(ids("hello"), ids("hello\n"));
  EXPECT_EQ(piped("hello"), ids("hello"));
  EXPECT_EQ(piped("hello\n"), ids("hello"));
  EXPECT_EQ(piped("hello\n\n"), ids("hello\n"));
  EXPECT_EQ(piped("hello\n\n\n"), ids("hello\n\n"));
  EXPECT_EQ(piped("hello\r\n"), ids("hello"));
  EXPECT_EQ(piped("hello\r"), ids("hello\r"));
  EXPECT_EQ(piped("\n\nhello \n"), ids("\n\nhello "));
}

TEST_F(RunTest, RawLeavesTheChatFormatAway) {
  const Json chat = run_json({llama_, "--prompt", "shape", "--max-tokens", "1"});
  const Json raw = run_json({llama_, "--prompt", "shape", "--max-tokens", "1", "--raw"});
  const Json with_system =
      run_json({llama_, "--prompt", "shape", "--max-tokens", "1", "--system", "red"});
  EXPECT_EQ(chat["prompt_ids"][0], 3);  // <|im_start|>
  EXPECT_LT(raw["prompt_tokens"], 6);
  EXPECT_GT(with_system["prompt_tokens"], chat["prompt_tokens"]);
}

TEST_F(RunTest, PicturesAreShownAndMatter) {
  const std::vector<std::string> with = {phantom_, "--prompt", "what is it", "--max-tokens",
                                         "6",      "--image",  kPicture};
  const Json seen = run_json(with);
  EXPECT_GT(seen["tiles"], 0);
  EXPECT_EQ(seen["tokens"], run_json(with)["tokens"]);
  const Json blind = run_json({phantom_, "--prompt", "what is it", "--max-tokens", "6"});
  EXPECT_EQ(seen["prompt_tokens"].get<int>() - blind["prompt_tokens"].get<int>(),
            seen["tiles"].get<int>() * 16 + 2);  // and <img>, </img>
  EXPECT_NE(seen["tokens"], blind["tokens"]);
}

TEST_F(RunTest, EveryFormatOfAPictureIsTheSamePicture) {
  const std::string folder = (test::data_dir() / "cases/picture-formats/p.").string();
  const auto traced = [&](const std::string& picture, std::vector<std::string> more = {}) {
    const std::string page = (folder_ / "page.json").string();
    more.insert(more.begin(), {phantom_, "--prompt", "what is it", "--max-tokens", "3", "--image",
                               picture, "--trace", page});
    run_json(more);
    return parse_json(read_file(page), page)["measures"];
  };
  const Json png = traced(folder + "png");
  for (const char* format : {"webp", "gif", "bmp"})
    EXPECT_EQ(traced(folder + format), png) << format;
  const std::string clear = (test::data_dir() / "image/decode/rgba_lossless.webp").string();
  EXPECT_NE(traced(clear, {"--alpha", "white"}), traced(clear));
  EXPECT_EQ(traced(clear, {"--alpha", "official"}), traced(clear));
}

TEST_F(RunTest, PlansAndPassesChangeDepth) {
  const Json replay =
      run_json({llama_, "--prompt", "shape", "--max-tokens", "3", "--plan", "0-5,2-4"});
  EXPECT_EQ(replay["depth"]["prefill_visits"], 9);
  EXPECT_EQ(replay["depth"]["blocks"], 6);
  const Json once = run_json({llama_, "--prompt", "shape", "--max-tokens", "3"});
  EXPECT_EQ(replay["memory"]["weight_bytes"], once["memory"]["weight_bytes"]);
  EXPECT_GT(replay["memory"]["kv_bytes"], once["memory"]["kv_bytes"]);

  const std::vector<std::string> trol = {trol_, "--raw", "--prompt", "shape", "--max-tokens", "3"};
  EXPECT_EQ(run_json(trol)["depth"]["prefill_visits"], 6);
  std::vector<std::string> off = trol;
  off.insert(off.end(), {"--passes", "1"});
  EXPECT_EQ(run_json(off)["depth"]["prefill_visits"], 3);
}

TEST_F(RunTest, SamplingOptionsAreHeeded) {
  const auto tokens = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {llama_, "--prompt", "shape", "--max-tokens", "16"});
    return run_json(more)["tokens"];
  };
  const Json greedy = tokens({});
  const Json hot = tokens({"--temperature", "2", "--seed", "1"});
  EXPECT_NE(hot, greedy);
  EXPECT_EQ(hot, tokens({"--temperature", "2", "--seed", "1", "--chunk", "1", "--threads", "1"}));
  EXPECT_NE(hot, tokens({"--temperature", "2", "--seed", "2"}));
  EXPECT_EQ(greedy, tokens({"--temperature", "2", "--top-k", "1"}));
  EXPECT_EQ(greedy, tokens({"--temperature", "2", "--top-p", "0.000001"}));
  EXPECT_EQ(greedy, tokens({"--temperature", "2", "--min-p", "1"}));
  EXPECT_NE(greedy, tokens({"--repetition-penalty", "3"}));
}

TEST_F(RunTest, StopTextEndsTheAnswer) {
  const std::string whole =
      run_json({llama_, "--prompt", "what shape", "--max-tokens", "40"})["text"];
  size_t at = whole.size() / 2;
  while (at < whole.size() && (whole[at] & 0x80)) ++at;
  ASSERT_LT(at, whole.size());
  const std::string stop = whole.substr(at, 1);
  const Json json = run_json(
      {llama_, "--prompt", "what shape", "--max-tokens", "40", "--stop", "never", "--stop", stop});
  EXPECT_EQ(json["stop"], "stop");
  EXPECT_EQ(json["text"], whole.substr(0, whole.find(stop)));
}

// Against transformers' stop_strings, see the folder's README.
TEST(Run, StopTextThatIsASpecialTokenEndsTheAnswer) {
  const std::filesystem::path folder = test_data("cases/stop-special-token");
  const Json want = load_json(folder / "want.json");
  const auto run = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"run",          (folder / "model").string(),
                                          "--raw",        "--json",
                                          "--max-tokens", "16",
                                          "--prompt",     want["prompt"]};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  };
  const Json whole = run({}), stopped = run({"--stop", want["stop"]});
  EXPECT_EQ(whole["tokens"], want["without_stop"]);
  EXPECT_EQ(stopped["tokens"], want["tokens"]);
  EXPECT_EQ(stopped["stop"], "stop");
  // One beam of several ends there too.
  const Json beams = run({"--stop", want["stop"], "--beams", "2", "--num-return-sequences", "2"});
  for (const Json& beam : beams["beams"]) {
    const std::vector<int32_t> tokens = beam["tokens"];
    const auto special = std::find(tokens.begin(), tokens.end(), want["tokens"].back());
    EXPECT_LE(tokens.end() - special, 1) << beam.dump();
  }
}

TEST_F(RunTest, CtrlCEndsAGenerationCleanly) {
  edit_json(folder_ / "llama/config.json",
            [](Json& json) { json["max_position_embeddings"] = 100'000'000; });
  edit_tensors(folder_ / "llama/model.safetensors", [](TensorView& tensor) {
    if (tensor.name != "lm_head.weight") return;  // [320, 64]
    std::vector<float> values = to_floats(tensor);
    for (const int end_token : {2, 4}) std::fill_n(values.begin() + end_token * 64, 64, 0.0f);
    tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
  });
  const ProgramResult text =
      run_program({"run", llama_, "--prompt", "what shape"}, {.interrupt = SIGINT});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, EndsWith("\n"));
  EXPECT_THAT(text.err, HasSubstr("cancelled"));
  const ProgramResult json = run_program({"run", llama_, "--prompt", "what shape", "--json"},
                                         {.interrupt = SIGINT, .interrupt_after_ms = 1000});
  EXPECT_EQ(json.exit_code, 0) << json.err;
  EXPECT_EQ(parse_json(json.out, "stdout")["stop"], "cancelled");
}

TEST_F(RunTest, ChatsOnATerminal) {
  const ProgramResult chat =
      run_on_terminal({"run", llama_, "--max-tokens", "4"}, "> ", {"what shape", "what colour"});
  EXPECT_EQ(chat.exit_code, 0) << chat.out;
  // The second turn's prompt holds the first one: more tokens, some of them taken from it.
  EXPECT_THAT(chat.out,
              AllOf(HasSubstr("what shape"), HasSubstr("prompt 21 tokens"), HasSubstr("reused)")));
}

TEST_F(RunTest, ShowsPicturesInAChat) {
  const ProgramResult chat = run_on_terminal({"run", phantom_, "--max-tokens", "4"}, "> ",
                                             {"/help", std::string("/image ") + kPicture,
                                              "what shape", "/image /nowhere.png", "what colour"});
  EXPECT_EQ(chat.exit_code, 0) << chat.out;
  EXPECT_THAT(chat.out, AllOf(HasSubstr("/clear"), HasSubstr("1 picture for the next question"),
                              HasSubstr("tiles"), HasSubstr("/nowhere.png: no such picture")));
}

TEST_F(RunTest, AnswersAConversationFile) {
  const std::string file = (folder_ / "chat.json").string();
  const auto write = [&](const Json& json) {
    std::ofstream(file) << json.dump();
    return file;
  };
  const Json user = {
      {"role", "user"}, {"content", "what shape"}, {"images", Json::array({kPicture})}};
  const Json one = run_json({phantom_, "--chat", write(Json::array({user})), "--max-tokens", "2"});
  const Json flags =
      run_json({phantom_, "--prompt", "what shape", "--image", kPicture, "--max-tokens", "2"});
  EXPECT_EQ(one["prompt_ids"], flags["prompt_ids"]);
  EXPECT_EQ(one["tokens"], flags["tokens"]);
  const Json answer = {{"role", "assistant"}, {"content", "a circle"}};
  const Json two =
      run_json({phantom_, "--chat", write(Json::array({user, answer, user})), "--max-tokens", "2"});
  EXPECT_GT(two["prompt_tokens"], 2 * one["prompt_tokens"].get<int>());
  EXPECT_EQ(two["tiles"], 2 * one["tiles"].get<int>());
  const ProgramResult bad =
      run_program({"run", phantom_, "--chat", write(Json::array({user, answer}))});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, AllOf(HasSubstr(file), HasSubstr("'[1].role'")));
}

TEST_F(RunTest, InputErrors) {
  const auto expect_error = [](const std::vector<std::string>& arguments, const auto& message,
                               const ProgramOptions& options = {}) {
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_THAT(result.err, AllOf(StartsWith("reprise: error: "), message));
    EXPECT_EQ(result.out, "");
  };
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), "run");
    return more;
  };
  const std::string missing = (folder_ / "nowhere").string();
  expect_error(run({missing, "--prompt", "a"}), AllOf(HasSubstr(missing), HasSubstr("no such")));
  expect_error(run({llama_, "--prompt", "a", "--image", kPicture}), HasSubstr("text only"));
  expect_error(run({phantom_, "--prompt", "a", "--image", missing}), HasSubstr(missing));
  expect_error(run({phantom_, "--prompt", "a", "--image", phantom_ + "/config.json"}),
               HasSubstr("config.json"));
  expect_error(run({llama_, "--prompt", "a", "--temperature", "-1"}), HasSubstr("temperature"));
  expect_error(run({llama_, "--prompt", "a", "--stop", ""}), HasSubstr("--stop"));
  expect_error(run({llama_, "--prompt", "a", "--plan", "0-9"}), HasSubstr("--plan"));
  // Options of other schemes, whatever their value.
  for (const std::vector<std::string>& option :
       std::vector<std::vector<std::string>>{{"--passes", "2"},
                                             {"--passes", "1"},
                                             {"--adaptive", "0"},
                                             {"--traverse", "all"},
                                             {"--last-gate"}}) {
    std::vector<std::string> arguments = {llama_, "--prompt", "a"};
    arguments.insert(arguments.end(), option.begin(), option.end());
    expect_error(run(arguments), AllOf(HasSubstr(option[0] + ": is no option of this model"),
                                       HasSubstr("'dense'"), HasSubstr("scheme trol has it")));
  }
  expect_error(run({trol_, "--prompt", "a", "--plan", "0-1"}),
               AllOf(HasSubstr("--plan"), HasSubstr("'trol'"), HasSubstr("dense, replay")));
  expect_error(run({trol_, "--prompt", "a", "--passes", "1", "--adaptive", "0.5"}),
               AllOf(HasSubstr("--adaptive 0.5"), HasSubstr("one pass")));
  expect_error(run({trol_, "--prompt", "a", "--passes", "1", "--traverse", "image"}),
               AllOf(HasSubstr("--traverse image"), HasSubstr("one pass")));
  expect_error(run({llama_, "--prompt", "a", "--device", "cuda"}), HasSubstr("--device"));
  expect_error(run({llama_, "--prompt", "a", "--isa", "mmx"}), HasSubstr("mmx"));
  expect_error(run({llama_, "--prompt", "a", "--chat-template", "nonsense"}),
               HasSubstr("--chat-template"));
  expect_error(run({llama_, "--raw", "--system", "b", "--prompt", "a"}), HasSubstr("--system"));
  expect_error(run({llama_, "--raw"}), HasSubstr("empty"));
  expect_error(run({llama_, "--prompt", std::string(2000, '?')}), HasSubstr("256"));
}

TEST_F(RunTest, AnUnknownChatTemplateIsNeverGuessed) {
  edit_json(folder_ / "llama/tokenizer_config.json",
            [](Json& json) { json["chat_template"] = "{{ messages[0]['content'] }} ok?"; });
  const ProgramResult result = run_program({"run", llama_, "--prompt", "a"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--chat-template"), HasSubstr(llama_)));
  EXPECT_EQ(run_program(
                {"run", llama_, "--prompt", "a", "--max-tokens", "2", "--chat-template", "chatml"})
                .exit_code,
            0);
  EXPECT_EQ(run_program({"run", llama_, "--prompt", "a", "--max-tokens", "2", "--raw"}).exit_code,
            0);
}

TEST(Program, VersionHelpAndUsage) {
  const ProgramResult version = run_program({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, StartsWith("reprise 0."));
  for (const char* command : {"run", "inspect", "eval", "train", "trace", "tokenize"}) {
    const ProgramResult help = run_program({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_THAT(help.out, HasSubstr("reprise " + std::string(command))) << command;
    EXPECT_THAT(run_program({"--help"}).out, HasSubstr(command));
    const ProgramResult bad = run_program({command, "--no-such-option"});
    EXPECT_EQ(bad.exit_code, 2) << command;
    EXPECT_THAT(bad.err, AllOf(StartsWith("reprise: error: "), HasSubstr("--help")));
  }
  // Options of schemes stand with the schemes that have them.
  EXPECT_THAT(
      run_program({"run", "--help"}).out,
      AllOf(ContainsRegex("scheme trol:[^:]*--last-gate"),
            ContainsRegex("schemes dense, replay, phantom and recursive:[^:]*--plan PLAN")));
  for (const std::vector<const char*>& wrong : std::vector<std::vector<const char*>>{
           {"--passes", "5"}, {"--passes", "x"}, {"--adaptive", "2"}, {"--traverse", "none"}})
    EXPECT_EQ(run_program({"run", "x", wrong[0], wrong[1]}).exit_code, 2) << wrong[0];
  const ProgramResult unknown = run_program({"inspct"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("Did you mean 'inspect'?"));
  EXPECT_EQ(run_program({}).exit_code, 2);
  EXPECT_EQ(run_program({"run", "x", "--backend", "quantum"}).exit_code, 2);
  EXPECT_EQ(run_program({"run", "x", "--seed", "-3"}).exit_code, 2);
}

}  // namespace
}  // namespace reprise::testing
