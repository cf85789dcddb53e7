// `reprise batch`: its answers are those of `reprise run`, errors stay on their lines, and a batch
// that was ended goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <limits>
#include <map>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

const std::filesystem::path kPicture = test_data("golden/trol/phi3-vit-448/image.png");

Json line_of(const std::string& id, const std::string& url, Json body) {
  return {{"custom_id", id}, {"method", "POST"}, {"url", url}, {"body", std::move(body)}};
}
Json chat(const std::string& id, const std::string& question, const Json& more = Json::object()) {
  Json body = {{"messages", {{{"role", "user"}, {"content", question}}}}, {"max_tokens", 8}};
  body.update(more);
  return line_of(id, "/v1/chat/completions", body);
}
Json completion(const std::string& id, const Json& prompt, const Json& more = Json::object()) {
  Json body = {{"prompt", prompt}, {"max_tokens", 8}};
  body.update(more);
  return line_of(id, "/v1/completions", body);
}
Json picture_chat(const std::string& id, const std::string& question) {
  const std::string url = "data:image/png;base64," + base64(read_file(kPicture));
  Json line = chat(id, "");
  line["body"]["messages"][0]["content"] = {{{"type", "image_url"}, {"image_url", {{"url", url}}}},
                                            {{"type", "text"}, {"text", question}}};
  return line;
}

class BatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    copy_model("rrt/llama", folder_ / "llama");
    llama_ = (folder_ / "llama").string();
  }
  // The golden Llama, looped twice.
  std::string looped() const {
    copy_model("rrt/llama", folder_ / "looped");
    edit_json(folder_ / "looped/config.json", [](Json& config) {
      config["reprise"] = {{"scheme", "recursive"},
                           {"recursive", {{"loops", 2}, {"lora_rank", 0}}}};
    });
    return (folder_ / "looped").string();
  }
  void write_input(const std::vector<Json>& lines) const {
    std::string text;
    for (const Json& line : lines) text += line.dump() + "\n";
    write_file_atomically(folder_ / "in.jsonl", text);
  }
  std::vector<std::string> arguments(const std::string& model,
                                     const std::vector<std::string>& extra = {}) const {
    std::vector<std::string> all = {"batch", model, (folder_ / "in.jsonl").string(),
                                    (folder_ / "out.jsonl").string()};
    all.insert(all.end(), extra.begin(), extra.end());
    return all;
  }
  // Answers by line.
  std::map<int64_t, Json> answers() const {
    std::map<int64_t, Json> found;
    const std::string text = read_file(folder_ / "out.jsonl");
    EXPECT_TRUE(text.empty() || text.ends_with('\n'));
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\n', begin);
      const Json answer = parse_json(text.substr(begin, end - begin), "out.jsonl");
      EXPECT_TRUE(found.emplace(answer["line"], answer).second) << answer["line"];
      begin = end + 1;
    }
    return found;
  }
  std::map<int64_t, Json> batch(const std::string& model, const std::vector<Json>& lines,
                                const std::vector<std::string>& extra = {}) {
    write_input(lines);
    std::filesystem::remove(folder_ / "out.jsonl");
    const ProgramResult result = run_program(arguments(model, extra));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return answers();
  }
  static Json run_json(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "run");
    arguments.insert(arguments.end(), {"--max-tokens", "8", "--json"});
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  static Json choice_of(const Json& answer, size_t index = 0) {
    EXPECT_EQ(answer["response"]["status_code"], 200) << answer;
    return answer["response"]["body"]["choices"][index];
  }
  static std::string text_of(const Json& answer, size_t index = 0) {
    const Json choice = choice_of(answer, index);
    return choice.contains("text") ? choice["text"] : choice["message"]["content"];
  }
  // Its message; the answer must be an error.
  static std::string error_of(const Json& answer) {
    EXPECT_EQ(answer["response"]["status_code"], 400) << answer;
    EXPECT_EQ(answer["error"]["line"], answer["line"]);
    EXPECT_EQ(answer["error"]["message"], answer["response"]["body"]["error"]["message"]);
    return answer["error"]["message"];
  }
  // What a batch's answers say, without when.
  static std::string lasting(std::map<int64_t, Json> all) {
    std::string text;
    for (auto& [line, answer] : all) {
      answer["response"]["body"].erase("created");
      text += answer.dump() + "\n";
    }
    return text;
  }
  const TempFolder folder_;
  std::string llama_;
};

TEST_F(BatchTest, AnswersAreThoseOfRun) {
  const auto found = batch(
      llama_, {chat("chat", "what shape"), completion("text", "what shape"),
               completion("ids", {5, 40, 41, 42}),
               chat("sampled", "what color", {{"temperature", 0.9}, {"top_p", 0.8}, {"seed", 7}}),
               chat("system", "where",
                    {{"messages",
                      {{{"role", "system"}, {"content", "be short"}},
                       {{"role", "user"}, {"content", "where is it"}}}}})});
  ASSERT_EQ(found.size(), 5u);
  const Json chat_run = run_json({llama_, "--prompt", "what shape"});
  EXPECT_EQ(text_of(found.at(1)), chat_run["text"]);
  const Json body = found.at(1)["response"]["body"];
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "llama");
  EXPECT_EQ(body["usage"]["prompt_tokens"], chat_run["prompt_tokens"]);
  EXPECT_EQ(body["usage"]["completion_tokens"], chat_run["generated_tokens"]);
  EXPECT_EQ(found.at(1)["custom_id"], "chat");
  EXPECT_TRUE(found.at(1)["error"].is_null());
  EXPECT_FALSE(choice_of(found.at(1)).contains("exit"));
  EXPECT_EQ(text_of(found.at(2)), run_json({llama_, "--prompt", "what shape", "--raw"})["text"]);
  EXPECT_EQ(found.at(2)["response"]["body"]["object"], "text_completion");
  EXPECT_EQ(found.at(3)["response"]["body"]["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(text_of(found.at(4)), run_json({llama_, "--prompt", "what color", "--temperature",
                                            "0.9", "--top-p", "0.8", "--seed", "7"})["text"]);
  EXPECT_EQ(text_of(found.at(5)),
            run_json({llama_, "--prompt", "where is it", "--system", "be short"})["text"]);
}

TEST_F(BatchTest, Pictures) {
  copy_model("phantom/qwen2-vit", folder_ / "phantom");
  for (const std::filesystem::path& model :
       {folder_ / "phantom", test::source_dir() / "models/tiny-trol.gguf"}) {
    const auto found = batch(model.string(), {picture_chat("a", "what shape"),
                                              chat("b", "what shape"), picture_chat("c", "where")});
    const auto ask = [&](const std::string& question, bool picture) {
      std::vector<std::string> run = {model.string(), "--prompt", question};
      if (picture) run.insert(run.end(), {"--image", kPicture.string()});
      return run_json(run)["text"];
    };
    EXPECT_EQ(text_of(found.at(1)), ask("what shape", true)) << model;
    EXPECT_EQ(text_of(found.at(2)), ask("what shape", false)) << model;
    EXPECT_EQ(text_of(found.at(3)), ask("where", true)) << model;
  }
}

TEST_F(BatchTest, ErrorsStayOnTheirLines) {
  std::string text;
  const auto add = [&](const Json& line) { text += line.dump() + "\n"; };
  add(chat("good", "what shape"));
  text += "{\"custom_id\": \"broken\"\n\n";
  add(chat("good", "the same id"));
  add(picture_chat("picture", "what shape"));
  std::string words;
  for (int i = 0; i < 400; ++i) words += "shape ";
  add(completion("long", words));
  add(completion("id", {3, 4000}));
  add(completion("empty", Json::array()));
  add(chat("tools", "what", {{"tools", 1}, {"top_k", 3}}));
  add(chat("exit", "what", {{"exit", "confidence:0.5"}}));
  add(chat("last", "where"));
  text.pop_back();  // the last newline may be missing
  write_file_atomically(folder_ / "in.jsonl", text);
  const ProgramResult result = run_program(arguments(llama_, {"--json"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const Json report = parse_json(result.out, "stdout");
  EXPECT_EQ(report["requests"], 10);
  EXPECT_EQ(report["answered"], 10);
  EXPECT_EQ(report["errors"], 8);
  EXPECT_EQ(report["left"], 0);
  const auto found = answers();
  ASSERT_EQ(found.size(), 10u);
  EXPECT_EQ(text_of(found.at(1)), run_json({llama_, "--prompt", "what shape"})["text"]);
  EXPECT_THAT(error_of(found.at(2)), StartsWith("line 2: not valid JSON"));
  EXPECT_TRUE(found.at(2)["custom_id"].is_null());
  EXPECT_FALSE(found.contains(3)) << "an empty line is no request";
  EXPECT_EQ(error_of(found.at(4)), "line 4: key 'custom_id': 'good' is that of line 1 too");
  EXPECT_THAT(error_of(found.at(5)), AllOf(StartsWith("line 5: "), HasSubstr("takes text only")));
  EXPECT_THAT(error_of(found.at(6)), AllOf(StartsWith("line 6: the prompt has "),
                                           HasSubstr("the context of"), HasSubstr("has 256")));
  EXPECT_EQ(found.at(6)["error"]["code"], "context_length_exceeded");
  EXPECT_THAT(error_of(found.at(7)), HasSubstr("expected token ids below 320, found 4000"));
  EXPECT_THAT(error_of(found.at(8)), HasSubstr("line 8: the prompt is empty"));
  EXPECT_THAT(error_of(found.at(9)), AllOf(HasSubstr("'body.tools'"), HasSubstr("'body.top_k'")));
  EXPECT_THAT(error_of(found.at(10)), StartsWith("line 10: "));
  EXPECT_EQ(text_of(found.at(11)), run_json({llama_, "--prompt", "where"})["text"]);
}

TEST_F(BatchTest, WhatHappensToARequestStaysThere) {
  edit_tensors(folder_ / "llama/model.safetensors", [](TensorView& tensor) {
    if (tensor.name != "model.embed_tokens.weight") return;  // [320, 64]
    std::vector<float> values = to_floats(tensor);
    std::fill_n(values.begin() + 300 * 64, 64, std::numeric_limits<float>::quiet_NaN());
    tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
  });
  const std::vector<Json> lines = {completion("good", {5, 40, 41}),
                                   completion("nan", {5, 300}, {{"n", 2}}),
                                   completion("too", {5, 40, 42})};
  auto found = batch(llama_, lines);
  EXPECT_EQ(found.at(2)["response"]["status_code"], 500);
  EXPECT_EQ(found.at(2)["error"]["code"], "server_error");
  EXPECT_THAT(found.at(2)["error"]["message"].get<std::string>(),
              AllOf(StartsWith("line 2: "), HasSubstr("logits are NaN")));
  const std::string good = text_of(found.at(1)), too = text_of(found.at(3));
  found = batch(llama_, {lines[0], lines[2]});
  EXPECT_EQ(text_of(found.at(1)), good);
  EXPECT_EQ(text_of(found.at(2)), too);
  found = batch(llama_, lines, {"--kv-budget", "1kB"});
  for (const int64_t line : {1, 2, 3})
    EXPECT_THAT(error_of(found.at(line)), HasSubstr("the KV budget has 1000"));
}

TEST_F(BatchTest, PicturesThatCantBeShown) {
  copy_model("phantom/qwen2-vit", folder_ / "phantom");
  Json damaged = picture_chat("damaged", "what shape"), none = damaged;
  damaged["body"]["messages"][0]["content"][0]["image_url"]["url"] =
      "data:image/png;base64," + base64(read_file(kPicture).substr(0, 60));
  none["custom_id"] = "none";
  none["body"]["messages"][0]["content"][0]["image_url"]["url"] =
      "data:image/png;base64," + base64("no picture");
  const auto found =
      batch((folder_ / "phantom").string(), {damaged, none, picture_chat("good", "what shape")});
  EXPECT_THAT(error_of(found.at(1)),
              AllOf(StartsWith("line 1: "), HasSubstr("body.messages[0].content[0]")));
  EXPECT_THAT(error_of(found.at(2)), HasSubstr("not a picture in a known format"));
  EXPECT_THAT(text_of(found.at(3)), Not(IsEmpty()));
}

TEST_F(BatchTest, ChoicesLogprobsAndStops) {
  const Json whole = run_json({llama_, "--prompt", "what shape"});
  const std::string text = whole["text"];
  const std::string stop = " is";
  ASSERT_THAT(text, HasSubstr(stop));
  const auto found =
      batch(llama_, {chat("n", "what shape", {{"n", 3}, {"temperature", 1.5}, {"seed", 5}}),
                     chat("logprobs", "what shape", {{"logprobs", true}, {"top_logprobs", 2}}),
                     completion("stop", "what shape", {{"stop", {stop, "never"}}, {"logprobs", 1}}),
                     chat("stopped", "what shape", {{"stop", stop}}),
                     chat("greedy", "what shape", {{"n", 3}, {"temperature", 0}})});
  const Json three = found.at(1)["response"]["body"];
  ASSERT_EQ(three["choices"].size(), 3u);
  EXPECT_EQ(text_of(found.at(1), 0), run_json({llama_, "--prompt", "what shape", "--temperature",
                                               "1.5", "--seed", "5"})["text"]);
  EXPECT_NE(text_of(found.at(1), 0), text_of(found.at(1), 1));
  EXPECT_NE(text_of(found.at(1), 1), text_of(found.at(1), 2));
  EXPECT_EQ(three["choices"][2]["index"], 2);
  EXPECT_EQ(three["usage"]["completion_tokens"], 24);

  const Json content = choice_of(found.at(2))["logprobs"]["content"];
  ASSERT_EQ(content.size(), 8u);
  for (const Json& token : content) {
    ASSERT_EQ(token["top_logprobs"].size(), 2u);
    EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]) << "greedy";
    EXPECT_LT(token["logprob"], 0);
  }
  EXPECT_EQ(choice_of(found.at(2))["finish_reason"], "length");

  EXPECT_EQ(choice_of(found.at(4))["finish_reason"], "stop");
  EXPECT_EQ(text_of(found.at(4)), text.substr(0, text.find(stop)));
  // The likeliest tokens are the same three times.
  const Json equal = found.at(5)["response"]["body"];
  ASSERT_EQ(equal["choices"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(text_of(found.at(5), i), text);
    EXPECT_EQ(equal["choices"][i]["index"], i);
  }
  EXPECT_EQ(equal["usage"]["completion_tokens"], 3 * whole["generated_tokens"].get<int64_t>());

  const Json logprobs = choice_of(found.at(3))["logprobs"];
  EXPECT_EQ(logprobs["tokens"].size(), logprobs["text_offset"].size());
}

TEST_F(BatchTest, Exits) {
  const std::string model = looped();
  const std::vector<Json> lines = {
      chat("plain", "what shape"), chat("first", "what shape", {{"exit", "depth:1"}}),
      chat("share", "what shape", {{"exit", {{"rule", "entropy:5"}, {"kv", "share"}}}}),
      chat("none", "what shape", {{"exit", "none"}}),
      chat("deep", "what shape", {{"exit", "depth:3"}})};
  auto found = batch(model, lines);
  EXPECT_FALSE(choice_of(found.at(1)).contains("exit"));
  const Json first = run_json({model, "--prompt", "what shape", "--exit", "depth:1"});
  EXPECT_EQ(text_of(found.at(2)), first["text"]);
  const Json exit = choice_of(found.at(2))["exit"];
  EXPECT_EQ(exit["exit_loops"], first["exit_loops"]);
  EXPECT_EQ(exit["mean_depth"], first["mean_depth"]);
  EXPECT_EQ(exit["rule"], "depth:1");
  const Json share =
      run_json({model, "--prompt", "what shape", "--exit", "entropy:5", "--exit-kv", "share"});
  EXPECT_EQ(text_of(found.at(3)), share["text"]);
  EXPECT_EQ(choice_of(found.at(3))["exit"]["exit_loops"], share["exit_loops"]);
  EXPECT_EQ(text_of(found.at(4)), text_of(found.at(1)));
  EXPECT_THAT(error_of(found.at(5)), HasSubstr("line 5: "));
  // As a default, and however rows are scheduled.
  for (const char* schedule : {"sequence", "cohort", "depthwise"}) {
    found = batch(model, lines,
                  {"--exit", "depth:1", "--schedule", schedule, "--prompt-rows", "3", "--running",
                   "2", "--kv-budget", "200kB"});
    EXPECT_EQ(choice_of(found.at(1))["exit"]["exit_loops"], first["exit_loops"]) << schedule;
    EXPECT_EQ(text_of(found.at(3)), share["text"]);
    EXPECT_FALSE(choice_of(found.at(4)).contains("exit"));
  }
}

// Exits of requests are completed as --exit is, by what the release's own code does beside them.
TEST_F(BatchTest, AReleasesOwnExits) {
  struct Case {
    Json exit;  // null: none said
    std::vector<std::string> options;
  };
  const auto expect_equal = [&](const std::string& name, const std::vector<Case>& cases) {
    copy_model("looped/" + name, folder_ / name);
    const std::string model = (folder_ / name).string();
    std::vector<Json> lines;
    for (const Case& one : cases) {
      lines.push_back(chat(std::to_string(lines.size()), "what shape", {{"seed", 4}}));
      lines.back()["body"]["exit"] = one.exit;
    }
    const auto found = batch(model, lines);
    for (size_t i = 0; i < cases.size(); ++i) {
      std::vector<std::string> run = {model, "--prompt", "what shape", "--seed", "4"};
      run.insert(run.end(), cases[i].options.begin(), cases[i].options.end());
      const Json alone = run_json(run);
      const Json choice = choice_of(found.at(static_cast<int64_t>(i + 1)));
      EXPECT_EQ(choice["message"]["content"], alone["text"]) << name << lines[i];
      ASSERT_EQ(choice.contains("exit"), alone.contains("exit_loops")) << name << lines[i];
      if (!choice.contains("exit")) continue;
      EXPECT_EQ(choice["exit"]["exit_loops"], alone["exit_loops"]) << name << lines[i];
      for (const char* key : {"rule", "kv", "mode", "loops"})
        EXPECT_EQ(choice["exit"][key], alone["exit"][key]) << name << lines[i];
      EXPECT_EQ(choice["exit"]["mean_depth"], alone["mean_depth"]) << name << lines[i];
    }
  };
  expect_equal("ouro", {{nullptr, {}},
                        {"none", {"--exit", "none"}},
                        {{{"rule", "cdf:0.5"}, {"mode", "select"}},
                         {"--exit", "cdf:0.5", "--exit-mode", "select"}},
                        {"weighted", {"--exit", "weighted"}},
                        {"gate:0.4", {"--exit", "gate:0.4"}}});
  expect_equal("huginn",
               {{nullptr, {}},
                {"kl:0.3", {"--exit", "kl:0.3"}},
                {{{"rule", "kl:0.3"}, {"kv", "exact"}}, {"--exit", "kl:0.3", "--exit-kv", "exact"}},
                {"latent-diff:0.5", {"--exit", "latent-diff:0.5"}}});
}

TEST_F(BatchTest, ABatchThatWasEndedGoesOn) {
  // Answers that take a while, drawn with seeds that follow from their ids.
  edit_json(folder_ / "llama/config.json",
            [](Json& json) { json["max_position_embeddings"] = 100'000; });
  std::vector<Json> lines;
  for (int i = 0; i < 24; ++i)
    lines.push_back(chat("request " + std::to_string(i), "what shape " + std::to_string(i),
                         {{"temperature", 1}, {"max_tokens", 100 + 10 * i}, {"n", 1 + i % 2}}));
  lines.push_back(lines[3]);  // a second one of its name
  const std::vector<std::string> few = {"--running", "3", "--threads", "1"};
  const std::string whole = lasting(batch(llama_, lines, few));

  std::filesystem::remove(folder_ / "out.jsonl");
  const auto size = [&] {
    std::error_code none;
    const auto bytes = std::filesystem::file_size(folder_ / "out.jsonl", none);
    return none ? 0 : bytes;
  };
  int stopped = 0;
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    const auto before = size();
    const ProgramResult ended =
        run_program(arguments(llama_, few),
                    {.interrupt = signal, .interrupt_when = [&] { return size() > before; }});
    if (signal == SIGKILL) {
      EXPECT_EQ(ended.signal, SIGKILL);
      // As if it had been amid a line.
      write_file_atomically(folder_ / "out.jsonl",
                            read_file(folder_ / "out.jsonl") + "{\"custom_id\":\"reque");
    } else if (ended.exit_code != 0) {  // it wasn't done before the signal
      ++stopped;
      EXPECT_EQ(ended.exit_code, 128 + signal) << ended.err;
      EXPECT_THAT(ended.err, HasSubstr("the same command goes on with them"));
      EXPECT_LT(answers().size(), lines.size());
    }
  }
  EXPECT_GT(stopped, 0);
  ProgramResult last = run_program(arguments(llama_, {"--json"}));  // other company
  EXPECT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(lasting(answers()), whole);
  const Json report = parse_json(last.out, "stdout");
  EXPECT_EQ(report["requests"], 25);
  EXPECT_GT(report["answered_before"], 0);
  // Once more: there is nothing to do.
  last = run_program(arguments(llama_, {"--json"}));
  EXPECT_EQ(parse_json(last.out, "stdout")["answered"], 0);
  EXPECT_EQ(lasting(answers()), whole);
}

TEST_F(BatchTest, FilesThatDontFit) {
  const auto refusal = [&](const std::vector<std::string>& extra = {}) {
    const ProgramResult result = run_program(arguments(llama_, extra));
    EXPECT_EQ(result.exit_code, 1) << result.err;
    return result.err;
  };
  EXPECT_THAT(refusal(), HasSubstr("in.jsonl: can't be opened"));
  batch(llama_, {chat("a", "what"), chat("b", "where")});
  const std::string out = read_file(folder_ / "out.jsonl");
  write_input({chat("b", "what"), chat("a", "where")});
  EXPECT_THAT(refusal(), HasSubstr("answers the request 'a' of line 1, where"));
  write_input({chat("a", "what")});
  EXPECT_THAT(refusal(), HasSubstr("answers the request 'b' of line 2"));
  write_input({chat("a", "what else"), chat("b", "where")});
  EXPECT_THAT(refusal(), HasSubstr("line 1 of"));
  EXPECT_THAT(refusal(), HasSubstr("was answered when another request stood there"));
  write_input({chat("a", "what"), chat("b", "where")});
  EXPECT_THAT(refusal({"--temperature", "0.5"}),
              HasSubstr("was answered by another model or with other options"));
  EXPECT_EQ(run_program(arguments(llama_, {"--running", "1", "--schedule", "cohort"})).exit_code,
            0);
  EXPECT_EQ(read_file(folder_ / "out.jsonl"), out);
  write_input({chat("a", "what")});
  const std::string in = (folder_ / "in.jsonl").string();
  const ProgramResult same = run_program({"batch", llama_, in, in});
  EXPECT_EQ(same.exit_code, 1);
  EXPECT_THAT(same.err, HasSubstr("is both input and output"));
  EXPECT_EQ(read_file(in), chat("a", "what").dump() + "\n");
  std::filesystem::remove(folder_ / "out.jsonl");
  EXPECT_THAT(refusal({"--ctx", "1000000"}),
              HasSubstr("--ctx 1000000: the model's context is 256"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.jsonl")) << "options come first";
  EXPECT_THAT(error_of(batch(llama_, {completion("a", "what shape is it")}, {"--ctx", "3"}).at(1)),
              HasSubstr("has 3"));
}

TEST_F(BatchTest, AFullDiskLeavesWholeLines) {
  std::vector<Json> lines;
  for (int i = 0; i < 8; ++i) lines.push_back(chat(std::to_string(i), "what shape"));
  write_input(lines);
  const ProgramResult full = run_program(arguments(llama_), {.largest_file = 1000});
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.err, HasSubstr("out.jsonl: can't be written"));
  EXPECT_LT(answers().size(), lines.size());
  EXPECT_EQ(run_program(arguments(llama_)).exit_code, 0);
  EXPECT_EQ(answers().size(), lines.size());
}

}  // namespace
}  // namespace reprise::testing
