// Lines of batch files: what is read of them and what they are refused for.
#include "api/batch_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "api/batch.h"
#include "base/base64.h"
#include "base/json.h"
#include "support/tiny_models.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Json chat_line() {
  return {{"custom_id", "a"},
          {"method", "POST"},
          {"url", "/v1/chat/completions"},
          {"body", {{"messages", {{{"role", "user"}, {"content", "Why?"}}}}}}};
}

Json completion_line() {
  return {{"custom_id", "a"},
          {"method", "POST"},
          {"url", "/v1/completions"},
          {"body", {{"prompt", "Once upon"}}}};
}

BatchLine read(const Json& json) { return read_batch_line(7, json.dump()); }

CompletionRequest request_of(const Json& json) {
  const BatchLine line = read(json);
  EXPECT_TRUE(line.request) << line.error.message;
  return line.request.value_or(CompletionRequest());
}

// What a line is refused for; the message names the line.
std::string refusal(const Json& json) {
  const BatchLine line = read(json);
  EXPECT_FALSE(line.request) << json;
  EXPECT_EQ(line.error.status, 400);
  EXPECT_EQ(line.error.code, "invalid_request");
  EXPECT_THAT(line.error.message, StartsWith("line 7: "));
  return line.error.message;
}

// The same with one key of the body changed.
std::string chat_refusal(const std::string& key, Json value) {
  Json line = chat_line();
  line["body"][key] = std::move(value);
  return refusal(line);
}
std::string completion_refusal(const std::string& key, Json value) {
  Json line = completion_line();
  line["body"][key] = std::move(value);
  return refusal(line);
}
std::string message_refusal(const Json& messages) { return chat_refusal("messages", messages); }
std::string content_refusal(const Json& content) {
  return message_refusal({{{"role", "user"}, {"content", content}}});
}
std::string url_refusal(const std::string& url) {
  return content_refusal({{{"type", "image_url"}, {"image_url", {{"url", url}}}}});
}

TEST(BatchLineTest, ReadsAChat) {
  Json line = chat_line();
  const std::string bytes = "\x89PNG and more";
  const std::string url = "data:image/png;base64," + base64(bytes);
  line["body"] = {{"model", "mine"},
                  {"messages",
                   {{{"role", "system"}, {"content", "Be short."}},
                    {{"role", "user"}, {"content", "Hello"}},
                    {{"role", "assistant"}, {"content", {{{"type", "text"}, {"text", "Yes?"}}}}},
                    {{"role", "user"},
                     {"content",
                      {{{"type", "text"}, {"text", "What"}},
                       {{"type", "image_url"}, {"image_url", {{"url", url}, {"detail", "auto"}}}},
                       {{"type", "text"}, {"text", "is this?"}}}}}}},
                  {"max_completion_tokens", 9},
                  {"temperature", 0.5},
                  {"top_p", 0.9},
                  {"seed", 12},
                  {"stop", {"a", "b"}},
                  {"n", 3},
                  {"logprobs", true},
                  {"top_logprobs", 4},
                  {"stream", false},
                  {"exit", "confidence:0.9"}};
  EXPECT_EQ(read(line).custom_id, "a");
  EXPECT_EQ(read(line).number, 7);
  const CompletionRequest request = request_of(line);
  EXPECT_EQ(request.endpoint, Endpoint::Chat);
  EXPECT_EQ(request.model, "mine");
  ASSERT_EQ(request.turns.size(), 4u);
  EXPECT_EQ(request.turns[0].role, "system");
  EXPECT_EQ(request.turns[2].text, "Yes?");
  EXPECT_EQ(request.turns[3].text, "What\nis this?");
  ASSERT_EQ(request.turns[3].images.size(), 1u);
  const auto read_bytes = request.turns[3].images[0].bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(read_bytes.data()), read_bytes.size()),
            bytes);
  EXPECT_THAT(request.turns[3].images[0].name(), HasSubstr("body.messages[3].content[1]"));
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.temperature, 0.5f);
  EXPECT_EQ(request.top_p, 0.9f);
  EXPECT_EQ(request.seed, 12u);
  EXPECT_THAT(request.stop, ElementsAre("a", "b"));
  EXPECT_EQ(request.choices, 3);
  EXPECT_TRUE(request.logprobs);
  EXPECT_EQ(request.top_logprobs, 4);
  ASSERT_TRUE(request.exit);
  EXPECT_EQ(exit_text(request.exit->rule), "confidence:0.9");
  EXPECT_FALSE(request.exit->kv);
}

TEST(BatchLineTest, ReadsACompletion) {
  Json line = completion_line();
  line["body"]["logprobs"] = 0;
  line["body"]["stop"] = "end";
  line["body"]["exit"] = {{"rule", "depth:1"}, {"kv", "share"}, {"mode", "skip"}};
  const CompletionRequest request = request_of(line);
  EXPECT_EQ(request.endpoint, Endpoint::Completions);
  EXPECT_EQ(request.text, "Once upon");
  EXPECT_FALSE(request.ids);
  EXPECT_TRUE(request.logprobs);
  EXPECT_EQ(request.top_logprobs, 0);
  EXPECT_THAT(request.stop, ElementsAre("end"));
  EXPECT_EQ(exit_text(request.exit->rule), "depth:1");
  EXPECT_EQ(request.exit->kv, ExitKv::Share);
  EXPECT_EQ(request.exit->mode, ExitMode::Skip);
  line["body"]["prompt"] = {1, 2, 3};
  EXPECT_THAT(*request_of(line).ids, ElementsAre(1, 2, 3));
}

TEST(BatchLineTest, NullMeansNotSaid) {
  Json line = chat_line();
  for (const char* key :
       {"max_tokens", "temperature", "top_p", "seed", "stop", "n", "logprobs", "exit", "stream"})
    line["body"][key] = nullptr;
  const CompletionRequest request = request_of(line);
  EXPECT_FALSE(request.max_tokens);
  EXPECT_FALSE(request.seed);
  EXPECT_FALSE(request.exit);
  EXPECT_EQ(request.choices, 1);
}

TEST(BatchLineTest, OptionsTakeThePlaceOfDefaults) {
  GenerationOptions defaults;
  defaults.sampler = {.temperature = 0.7f, .top_p = 0.8f, .seed = 3};
  defaults.max_tokens = 11;
  defaults.exit = parse_exit("depth:2");
  Json line = completion_line();
  const auto backend = make_backend("cpu", {.threads = 1});
  const auto model = test::tiny_model(test::tiny_text_config("LlamaForCausalLM"), *backend);
  GenerationOptions options = request_of(line).options(defaults, *model, {});
  EXPECT_EQ(options.sampler.temperature, 0.7f);
  EXPECT_EQ(options.sampler.seed, 3u);
  EXPECT_EQ(options.max_tokens, 11);
  EXPECT_EQ(options.exit, defaults.exit);
  line["body"].update(
      {{"temperature", 0}, {"top_p", 1}, {"seed", 0}, {"max_tokens", 1}, {"exit", "none"}});
  options = request_of(line).options(defaults, *model, {});
  EXPECT_EQ(options.sampler.temperature, 0.0f);
  EXPECT_EQ(options.sampler.top_p, 1.0f);
  EXPECT_EQ(options.sampler.seed, 0u);
  EXPECT_EQ(options.max_tokens, 1);
  EXPECT_FALSE(options.exit.active());
}

TEST(BatchLineTest, BrokenJson) {
  for (const char* text : {"", "{", "{\"custom_id\": \"a\"", "\xff", "{\"a\": 1} 2"}) {
    const BatchLine line = read_batch_line(3, text);
    EXPECT_FALSE(line.request);
    EXPECT_EQ(line.error.code, "invalid_json");
    EXPECT_THAT(line.error.message, StartsWith("line 3: not valid JSON"));
    EXPECT_EQ(line.custom_id, "");
    EXPECT_EQ(read_custom_id(text), "");
  }
  std::string deep(10000, '[');
  EXPECT_THAT(read_batch_line(3, deep).error.message, HasSubstr("nested deeper"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("expected a JSON object"));
}

TEST(BatchLineTest, TheLineItself) {
  Json line = chat_line();
  line["custom_id"] = 5;
  EXPECT_THAT(refusal(line), HasSubstr("key 'custom_id': expected a string, found 5"));
  line["custom_id"] = "";
  EXPECT_THAT(refusal(line), HasSubstr("'custom_id': expected a text that isn't empty"));
  line.erase("custom_id");
  EXPECT_THAT(refusal(line), HasSubstr("'custom_id': is missing"));
  line = chat_line();
  line["method"] = "GET";
  EXPECT_THAT(refusal(line), HasSubstr("'method': expected POST, found 'GET'"));
  line.erase("method");
  EXPECT_THAT(refusal(line), HasSubstr("'method': is missing"));
  line = chat_line();
  line["url"] = "/v1/embeddings";
  EXPECT_THAT(refusal(line), AllOf(HasSubstr("'url': expected /v1/chat/completions or"),
                                   HasSubstr("found '/v1/embeddings'")));
  line = chat_line();
  line["body"] = 3;
  EXPECT_THAT(refusal(line), HasSubstr("key 'body': expected a JSON object, found number"));
  line.erase("body");
  EXPECT_THAT(refusal(line), HasSubstr("'body': is missing"));
  line = chat_line();
  line["priority"] = 1;
  EXPECT_THAT(refusal(line), HasSubstr("key 'priority': is unknown here"));
  EXPECT_EQ(read(line).custom_id, "a") << "known although the line is refused";
}

TEST(BatchLineTest, UnknownKeysAreAllNamed) {
  Json line = chat_line();
  for (const char* key : {"tools", "response_format", "prompt", "top_k"}) line["body"][key] = 1;
  const std::string message = refusal(line);
  for (const char* key : {"tools", "response_format", "prompt", "top_k"})
    EXPECT_THAT(message, HasSubstr(fmt::format("key 'body.{}': is unknown here", key)));
  EXPECT_THAT(completion_refusal("echo", false), HasSubstr("key 'body.echo'"));
  EXPECT_THAT(completion_refusal("top_logprobs", 2), HasSubstr("key 'body.top_logprobs'"));
  EXPECT_THAT(completion_refusal("suffix", "x"), HasSubstr("key 'body.suffix'"));
}

TEST(BatchLineTest, Messages) {
  EXPECT_THAT(message_refusal("Why?"), HasSubstr("'body.messages': expected a list of messages"));
  EXPECT_THAT(message_refusal(Json::array()), HasSubstr("found an empty one"));
  EXPECT_THAT(message_refusal(nullptr), HasSubstr("is missing"));
  EXPECT_THAT(message_refusal({"Why?"}),
              HasSubstr("key 'body.messages[0]': expected a JSON object"));
  EXPECT_THAT(
      message_refusal({{{"role", "tool"}, {"content", "x"}}}),
      HasSubstr("'body.messages[0].role': expected system, user or assistant, found 'tool'"));
  EXPECT_THAT(message_refusal({{{"role", "user"}}}), HasSubstr("'body.messages[0].content'"));
  EXPECT_THAT(message_refusal({{{"role", "user"}, {"content", "x"}, {"name", "y"}}}),
              HasSubstr("'body.messages[0].name': is unknown here"));
  EXPECT_THAT(message_refusal({{{"role", "user"}, {"content", "x"}},
                               {{"role", "system"}, {"content", "x"}},
                               {{"role", "user"}, {"content", "x"}}}),
              HasSubstr("'body.messages[1].role': a system message is only possible as the first"));
  EXPECT_THAT(message_refusal({{{"role", "user"}, {"content", "x"}},
                               {{"role", "assistant"}, {"content", "x"}}}),
              HasSubstr("expected the last one to be the user's, found 'assistant'"));
  EXPECT_THAT(content_refusal(Json::array()), HasSubstr("found no part"));
  EXPECT_THAT(content_refusal(4), HasSubstr("'body.messages[0].content': expected a string"));
  EXPECT_THAT(content_refusal({{{"type", "input_audio"}}}),
              HasSubstr("'body.messages[0].content[0].type': expected text or image_url"));
  EXPECT_THAT(content_refusal({{{"type", "text"}, {"text", "x"}, {"more", 1}}}),
              HasSubstr("'body.messages[0].content[0].more'"));
  EXPECT_THAT(content_refusal({{{"type", "text"}}}), HasSubstr("content[0].text': is missing"));
}

TEST(BatchLineTest, Pictures) {
  EXPECT_THAT(url_refusal("https://example.org/a.png"),
              AllOf(HasSubstr("content[0].image_url.url': expected a data URL"),
                    HasSubstr("nothing is fetched")));
  EXPECT_THAT(url_refusal("data:image/png,abc"), HasSubstr("expected data:image/...;base64,"));
  EXPECT_THAT(url_refusal("data:image/png;base64"), HasSubstr("expected data:image/...;base64,"));
  EXPECT_THAT(url_refusal("data:text/plain;base64,AAAA"),
              HasSubstr("expected data:image/...;base64,"));
  EXPECT_THAT(url_refusal("data:image/png;base64,AA"), HasSubstr("not base64"));
  EXPECT_THAT(url_refusal("data:image/png;base64,AA A"), HasSubstr("not base64: character 3"));
  const std::string url = "data:image/png;base64,AAAA";
  EXPECT_THAT(content_refusal({{{"type", "image_url"}, {"image_url", url}}}),
              HasSubstr("content[0].image_url': expected a JSON object"));
  EXPECT_THAT(
      content_refusal({{{"type", "image_url"}, {"image_url", {{"url", url}, {"detail", "low"}}}}}),
      HasSubstr("image_url.detail': expected auto"));
  EXPECT_THAT(
      message_refusal({{{"role", "assistant"},
                        {"content", {{{"type", "image_url"}, {"image_url", {{"url", url}}}}}}},
                       {{"role", "user"}, {"content", "x"}}}),
      HasSubstr("'body.messages[0].content': only user messages may have pictures"));
}

TEST(BatchLineTest, Prompts) {
  EXPECT_THAT(completion_refusal("prompt", {"a", "b"}),
              HasSubstr("'body.prompt': expected one prompt"));
  EXPECT_THAT(completion_refusal("prompt", {{1, 2}, {3}}), HasSubstr("expected one prompt"));
  EXPECT_THAT(completion_refusal("prompt", {1, -2}), HasSubstr("expected token ids, found -2"));
  EXPECT_THAT(completion_refusal("prompt", {1, 2.5}), HasSubstr("expected token ids, found 2.5"));
  EXPECT_THAT(completion_refusal("prompt", {1, 3000000000}), HasSubstr("found 3000000000"));
  EXPECT_THAT(completion_refusal("prompt", 3),
              HasSubstr("expected a string or a list of token ids"));
  EXPECT_THAT(completion_refusal("prompt", nullptr), HasSubstr("'body.prompt': is missing"));
}

TEST(BatchLineTest, RangesAndTypes) {
  EXPECT_THAT(chat_refusal("max_tokens", 0), HasSubstr("'body.max_tokens': expected 1 to"));
  EXPECT_THAT(chat_refusal("max_tokens", 2.5), HasSubstr("expected an integer, found 2.5"));
  EXPECT_THAT(chat_refusal("n", 0), HasSubstr("'body.n': expected 1 to 128, found 0"));
  EXPECT_THAT(chat_refusal("n", 129), HasSubstr("'body.n': expected 1 to 128, found 129"));
  EXPECT_THAT(chat_refusal("seed", -1), HasSubstr("'body.seed': expected 0 to"));
  EXPECT_THAT(chat_refusal("temperature", -0.5),
              HasSubstr("'body.temperature': expected a number of 0"));
  EXPECT_THAT(chat_refusal("temperature", "hot"),
              HasSubstr("'body.temperature': expected a number"));
  EXPECT_THAT(chat_refusal("top_p", 0), HasSubstr("'body.top_p': expected a number in (0, 1]"));
  EXPECT_THAT(chat_refusal("top_p", 1.1), HasSubstr("'body.top_p': expected a number in (0, 1]"));
  EXPECT_THAT(chat_refusal("stop", {"a", "b", "c", "d", "e"}),
              HasSubstr("'body.stop': expected at most 4"));
  EXPECT_THAT(chat_refusal("stop", ""), HasSubstr("'body.stop': expected a text that isn't empty"));
  EXPECT_THAT(chat_refusal("stop", {1}), HasSubstr("'body.stop': expected a text"));
  EXPECT_THAT(chat_refusal("logprobs", 3), HasSubstr("'body.logprobs': expected true or false"));
  EXPECT_THAT(chat_refusal("top_logprobs", 3), HasSubstr("'body.top_logprobs': needs logprobs"));
  EXPECT_THAT(completion_refusal("logprobs", true),
              HasSubstr("'body.logprobs': expected an integer"));
  EXPECT_THAT(completion_refusal("logprobs", 21), HasSubstr("'body.logprobs': expected 0 to 20"));
  EXPECT_THAT(chat_refusal("stream", true), HasSubstr("'body.stream': expected false"));
  EXPECT_THAT(chat_refusal("model", 3), HasSubstr("'body.model': expected a string"));
  Json both = chat_line();
  both["body"]["max_tokens"] = both["body"]["max_completion_tokens"] = 3;
  EXPECT_THAT(refusal(both), HasSubstr("'body.max_completion_tokens': max_tokens says the same"));
  Json several = chat_line();
  several["body"]["n"] = 0;
  several["body"]["top_p"] = 7;
  EXPECT_THAT(refusal(several), AllOf(HasSubstr("body.n"), HasSubstr("body.top_p")));
}

TEST(BatchLineTest, Exits) {
  EXPECT_THAT(chat_refusal("exit", "confidence:2"), HasSubstr("'body.exit': confidence: expected"));
  EXPECT_THAT(chat_refusal("exit", "soon"), HasSubstr("found 'soon'"));
  EXPECT_THAT(chat_refusal("exit", 3), HasSubstr("'body.exit': expected a rule"));
  EXPECT_THAT(chat_refusal("exit", {{"kv", "share"}}), HasSubstr("'body.exit.rule': is missing"));
  EXPECT_THAT(chat_refusal("exit", {{"rule", "depth:1"}, {"kv", "none"}}),
              HasSubstr("'body.exit.kv'"));
  EXPECT_THAT(chat_refusal("exit", {{"rule", "depth:1"}, {"mode", "x"}}),
              HasSubstr("'body.exit.mode'"));
  EXPECT_THAT(chat_refusal("exit", {{"rule", "none"}, {"kv", "share"}}),
              HasSubstr("'body.exit.kv': expected a rule to leave by, found none"));
  EXPECT_THAT(chat_refusal("exit", {{"rule", "depth:1"}, {"threshold", 2}}),
              HasSubstr("'body.exit.threshold': is unknown"));
}

TEST(BatchLineTest, Seeds) {
  EXPECT_EQ(seed_of_choice(5, 0), 5u) << "as for one answer alone";
  std::set<uint64_t> seeds;
  for (int64_t i = 0; i < kMostChoices; ++i) {
    seeds.insert(seed_of_choice(5, i));
    seeds.insert(seed_of_choice(6, i));
    seeds.insert(seed_of_request(0, std::to_string(i)));
    seeds.insert(seed_of_request(1, std::to_string(i)));
  }
  EXPECT_EQ(seeds.size(), static_cast<size_t>(4 * kMostChoices));
}

TEST(BatchLineTest, AnswerLines) {
  const BatchLine line = read(chat_line());
  const Json good = batch_answer(line, {{"object", "chat.completion"}});
  EXPECT_EQ(good["custom_id"], "a");
  EXPECT_EQ(good["line"], 7);
  EXPECT_EQ(good["response"]["status_code"], 200);
  EXPECT_EQ(good["response"]["body"]["object"], "chat.completion");
  EXPECT_TRUE(good["error"].is_null());
  EXPECT_EQ(good["id"], batch_answer(line, {})["id"]) << "the same however often it is asked";
  Json other = chat_line();
  other["custom_id"] = "b";
  EXPECT_NE(good["id"], batch_answer(read(other), {})["id"]);
  EXPECT_NE(good["id"], batch_answer(read_batch_line(8, chat_line().dump()), {})["id"]);

  const Json bad = batch_error(read_batch_line(9, "{"), {400, "invalid_json", "what"});
  EXPECT_TRUE(bad["custom_id"].is_null());
  EXPECT_EQ(bad["response"]["status_code"], 400);
  EXPECT_EQ(bad["response"]["body"]["error"]["code"], "invalid_json");
  EXPECT_EQ(bad["error"], Json({{"code", "invalid_json"}, {"message", "what"}, {"line", 9}}));
}

}  // namespace
}  // namespace reprise
