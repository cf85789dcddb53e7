// Answers as OpenAI's API writes them: chat.completion and text_completion objects, and errors.
//
// Log-probabilities are those of the model's logits, before temperature and filters. One key is
// Reprise's own: "exit" of a choice, the loop that each token left at.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/completion_request.h"
#include "base/json_fwd.h"
#include "engine/serve/request.h"

namespace reprise {

// One answer of a request while its events come.
class Choice {
 public:
  // vocab: tokens that may be chosen, the first so many; loops: of the decode plan.
  Choice(const CompletionRequest& request, const Tokenizer& tokenizer, int64_t vocab);

  void add(const ServeEvent& event);  // Token or End

  int64_t tokens() const { return std::ssize(loops_); }  // an end token included
  const std::string& text() const { return text_; }
  // By token the loop (0-based) whose logits it was chosen from.
  const std::vector<int>& loops() const { return loops_; }
  // The object of the list "choices". exit: what held for it, in a model with so many loops.
  Json to_json(Endpoint endpoint, int64_t index, const ExitConfig& exit, int loops) const;

 private:
  struct Likely {
    int32_t token = 0;
    double logprob = 0;
  };
  struct Chosen {
    Likely token;
    std::vector<Likely> top;  // the likeliest first
  };
  Chosen judge(int32_t token, std::span<const float> logits) const;
  Json likely_json(const Likely& likely) const;
  Json chat_logprobs() const;
  Json completion_logprobs() const;

  const Tokenizer* tokenizer_;
  int64_t vocab_;
  bool logprobs_;
  size_t top_;
  std::string text_;
  std::vector<int> loops_;
  std::vector<Chosen> chosen_;  // with logprobs; without the end token, which is no text
  std::optional<StopReason> end_;
};

struct CompletionFacts {
  std::string id;       // "chatcmpl-" or "cmpl-" and what tells it apart
  std::string model;    // where the request names none
  int64_t created = 0;  // seconds since 1970
  int64_t prompt_tokens = 0;
  ExitConfig exit;
  int loops = 0;  // of the decode plan
};
// The whole object. All choices have ended.
Json completion_json(const CompletionRequest& request, const CompletionFacts& facts,
                     std::span<const Choice> choices);

// Why a request has no answer.
struct ApiError {
  int status = 400;  // of HTTP: 400 what was asked for, 500 what happened
  std::string code;  // "invalid_request", ...
  std::string message;
};
// {"error": {message, type, param, code}}
Json error_json(const ApiError& error);

}  // namespace reprise
