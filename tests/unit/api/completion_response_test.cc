// Answers in OpenAI's form.
#include "api/completion_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"
#include "support/letters_tokenizer.h"

namespace reprise {
namespace {

using Kind = ServeEvent::Kind;

class ResponseTest : public ::testing::Test {
 protected:
  // Token 3 ends answers, 4 is half a character, 5 has logits but no text.
  const testing::LettersTokenizer tokenizer_{{"a", "b", "ü", "</s>", "\xc3"}, 3};
  static constexpr int64_t kVocab = 5;

  Choice choice(const CompletionRequest& request, const std::vector<int32_t>& tokens,
                const std::vector<int>& loops, StopReason reason) const {
    Choice made(request, tokenizer_, kVocab);
    const std::vector<float> logits = {2, 1, 0, -INFINITY, 1, 100};
    for (size_t i = 0; i < tokens.size(); ++i) {
      ServeEvent event{.id = 1, .token = tokens[i], .loop = loops[i], .logits = logits};
      if (tokens[i] < 3) event.text = tokenizer_.token_bytes(tokens[i]);
      made.add(event);
    }
    made.add({.id = 1, .kind = Kind::End, .text = "!", .reason = reason});
    return made;
  }
};

TEST_F(ResponseTest, AChatsChoiceAndUsage) {
  CompletionRequest request;
  request.model = "mine";
  const std::vector<Choice> choices = {choice(request, {0, 1}, {0, 0}, StopReason::MaxTokens),
                                       choice(request, {0, 2, 3}, {0, 0, 0}, StopReason::EndToken)};
  CompletionFacts facts;
  facts.id = "chatcmpl-1";
  facts.model = "file";
  facts.created = 5;
  facts.prompt_tokens = 7;
  const Json json = completion_json(request, facts, choices);
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["id"], "chatcmpl-1");
  EXPECT_EQ(json["created"], 5);
  EXPECT_EQ(json["model"], "mine");
  EXPECT_EQ(json["usage"],
            Json({{"prompt_tokens", 7}, {"completion_tokens", 5}, {"total_tokens", 12}}));
  ASSERT_EQ(json["choices"].size(), 2u);
  EXPECT_EQ(json["choices"][0],
            Json({{"index", 0},
                  {"finish_reason", "length"},
                  {"logprobs", nullptr},
                  {"message", {{"role", "assistant"}, {"content", "ab!"}, {"refusal", nullptr}}}}));
  EXPECT_EQ(json["choices"][1]["finish_reason"], "stop");
  EXPECT_EQ(json["choices"][1]["index"], 1);
  request.endpoint = Endpoint::Completions;
  request.model.clear();
  const Json text = completion_json(request, facts, choices);
  EXPECT_EQ(text["object"], "text_completion");
  EXPECT_EQ(text["model"], "file");
  EXPECT_EQ(text["choices"][1]["text"], "aü!");
}

TEST_F(ResponseTest, FinishReasons) {
  for (const auto& [reason, name] :
       std::vector<std::pair<StopReason, std::string>>{{StopReason::EndToken, "stop"},
                                                       {StopReason::StopString, "stop"},
                                                       {StopReason::MaxTokens, "length"},
                                                       {StopReason::ContextFull, "length"}}) {
    const Choice made = choice({}, {0}, {0}, reason);
    EXPECT_EQ(made.to_json(Endpoint::Chat, 0, {}, 0)["finish_reason"], name);
  }
  const Choice cancelled = choice({}, {0}, {0}, StopReason::Cancelled);
  EXPECT_THROW(cancelled.to_json(Endpoint::Chat, 0, {}, 0), InternalError);
}

TEST_F(ResponseTest, LogprobsOfAChat) {
  CompletionRequest request;
  request.logprobs = true;
  request.top_logprobs = 2;
  const Choice made = choice(request, {1, 2, 3}, {0, 0, 0}, StopReason::EndToken);
  const Json content = made.to_json(Endpoint::Chat, 0, {}, 0)["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u) << "the end token is no part of the text";
  // Of the tokens that there are: the logit of 100 can't be text.
  const double sum = std::log(std::exp(2.0) + 2 * std::exp(1.0) + 1);
  EXPECT_EQ(content[0]["token"], "b");
  EXPECT_NEAR(content[0]["logprob"], 1 - sum, 1e-9);
  EXPECT_EQ(content[1]["token"], "ü");
  EXPECT_EQ(content[1]["bytes"], Json({0xc3, 0xbc}));
  const Json& top = content[0]["top_logprobs"];
  ASSERT_EQ(top.size(), 2u);
  EXPECT_EQ(top[0]["token"], "a");
  EXPECT_NEAR(top[0]["logprob"], 2 - sum, 1e-9);
  EXPECT_EQ(top[1]["token"], "b") << "of equal ones the lower id";
  request.top_logprobs = 20;
  const Json all = choice(request, {1}, {0}, StopReason::MaxTokens)
                       .to_json(Endpoint::Chat, 0, {}, 0)["logprobs"]["content"];
  ASSERT_EQ(all[0]["top_logprobs"].size(), 5u) << "no more than there are";
  EXPECT_EQ(all[0]["top_logprobs"][4]["logprob"], -9999) << "JSON has no infinity";
}

TEST_F(ResponseTest, LogprobsOfACompletion) {
  CompletionRequest request;
  request.endpoint = Endpoint::Completions;
  request.logprobs = true;
  request.top_logprobs = 1;
  const Choice made = choice(request, {2, 4, 1}, {0, 0, 0}, StopReason::MaxTokens);
  const Json json = made.to_json(Endpoint::Completions, 0, {}, 0)["logprobs"];
  EXPECT_EQ(json["tokens"], Json({"ü", "bytes:\\xc3", "b"}));
  EXPECT_EQ(json["text_offset"], Json({0, 1, 2}));
  EXPECT_EQ(json["token_logprobs"].size(), 3u);
  EXPECT_EQ(json["top_logprobs"][2].size(), 2u) << "the likeliest one and the chosen one";
  EXPECT_EQ(json["top_logprobs"][2]["b"], json["token_logprobs"][2]);
  EXPECT_GT(json["top_logprobs"][2]["a"], json["top_logprobs"][2]["b"]);
  request.top_logprobs = 0;
  const Json plain = choice(request, {0}, {0}, StopReason::MaxTokens)
                         .to_json(Endpoint::Completions, 0, {}, 0)["logprobs"];
  EXPECT_TRUE(plain["top_logprobs"].is_null());
  EXPECT_EQ(plain["tokens"], Json({"a"}));
}

TEST_F(ResponseTest, ExitsSayWhereTokensLeft) {
  const Choice made = choice({}, {0, 1, 1}, {3, 0, 1}, StopReason::MaxTokens);
  EXPECT_FALSE(made.to_json(Endpoint::Chat, 0, {}, 4).contains("exit"));
  ExitConfig exit = parse_exit("confidence:0.5");
  exit.kv = ExitKv::Share;
  const Json json = made.to_json(Endpoint::Chat, 0, exit, 4)["exit"];
  EXPECT_EQ(json, Json({{"rule", "confidence:0.5"},
                        {"kv", "share"},
                        {"mode", "skip"},
                        {"loops", 4},
                        {"exit_loops", {3, 0, 1}},
                        {"mean_depth", 1.5}}));
  const Choice one = choice({}, {0}, {3}, StopReason::MaxTokens);
  EXPECT_EQ(one.to_json(Endpoint::Chat, 0, exit, 4)["exit"]["mean_depth"], 4);
}

TEST_F(ResponseTest, Errors) {
  EXPECT_EQ(error_json({400, "invalid_request", "what"})["error"],
            Json({{"message", "what"},
                  {"type", "invalid_request_error"},
                  {"param", nullptr},
                  {"code", "invalid_request"}}));
  EXPECT_EQ(error_json({500, "server_error", "what"})["error"]["type"], "server_error");
}

}  // namespace
}  // namespace reprise
