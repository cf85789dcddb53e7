#include "api/completion_response.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/json.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

// JSON has no infinity; this is what stands for a probability of 0 there.
constexpr double kLeastLogprob = -9999;

std::string finish_reason(StopReason reason) {
  switch (reason) {
    case StopReason::EndToken:
    case StopReason::StopString:
      return "stop";
    case StopReason::MaxTokens:
    case StopReason::ContextFull:
      return "length";
    case StopReason::Cancelled:
    case StopReason::Deadline:
      break;
  }
  REPRISE_CHECK(false, "an answer that was ended from outside ({})", stop_reason_name(reason));
  return "";
}

// A token as a key: what is no whole character is spelt byte by byte, so that two stay apart.
std::string token_key(std::string_view bytes) {
  if (is_valid_utf8(bytes)) return std::string(bytes);
  std::string key = "bytes:";
  for (const char byte : bytes) key += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return key;
}

int64_t characters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

}  // namespace

Choice::Choice(const CompletionRequest& request, const Tokenizer& tokenizer, int64_t vocab)
    : tokenizer_(&tokenizer),
      vocab_(vocab),
      logprobs_(request.logprobs),
      top_(static_cast<size_t>(std::min(request.top_logprobs, vocab))) {}

void Choice::add(const ServeEvent& event) {
  text_ += event.text;
  if (event.kind == ServeEvent::Kind::Token) {
    loops_.push_back(event.loop);
    if (logprobs_)
      chosen_.push_back(judge(event.token, event.logits.first(static_cast<size_t>(vocab_))));
  } else if (event.kind == ServeEvent::Kind::End) {
    end_ = event.reason;
    if (logprobs_ && end_ == StopReason::EndToken) chosen_.pop_back();
  }
}

Choice::Chosen Choice::judge(int32_t token, std::span<const float> logits) const {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - most);
  const double log_sum = most + std::log(sum);
  const auto likely = [&](int32_t id) {
    return Likely{id, std::max(logits[static_cast<size_t>(id)] - log_sum, kLeastLogprob)};
  };
  Chosen chosen{likely(token), {}};
  if (top_ == 0) return chosen;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(top_), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<size_t>(a)];
                      const float y = logits[static_cast<size_t>(b)];
                      return x > y || (x == y && a < b);
                    });
  for (size_t i = 0; i < top_; ++i) chosen.top.push_back(likely(ids[i]));
  return chosen;
}

Json Choice::likely_json(const Likely& likely) const {
  const std::string_view bytes = tokenizer_->token_bytes(likely.token);
  std::vector<int> numbers;
  for (const char byte : bytes) numbers.push_back(static_cast<unsigned char>(byte));
  return {{"token", to_valid_utf8(bytes)}, {"logprob", likely.logprob}, {"bytes", numbers}};
}

Json Choice::chat_logprobs() const {
  Json content = Json::array();
  for (const Chosen& chosen : chosen_) {
    Json entry = likely_json(chosen.token);
    entry["top_logprobs"] = Json::array();
    for (const Likely& likely : chosen.top) entry["top_logprobs"].push_back(likely_json(likely));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json Choice::completion_logprobs() const {
  Json tokens = Json::array(), values = Json::array(), tops = Json::array();
  Json offsets = Json::array();
  int64_t offset = 0;
  for (const Chosen& chosen : chosen_) {
    const std::string_view bytes = tokenizer_->token_bytes(chosen.token.token);
    tokens.push_back(token_key(bytes));
    values.push_back(chosen.token.logprob);
    offsets.push_back(offset);
    offset += characters(bytes);
    Json top = Json::object();
    for (const Likely& likely : chosen.top)  // of two that read the same the likelier one
      top.emplace(token_key(tokenizer_->token_bytes(likely.token)), likely.logprob);
    if (top_ > 0) top.emplace(token_key(bytes), chosen.token.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", top_ > 0 ? std::move(tops) : Json(nullptr)},
          {"text_offset", std::move(offsets)}};
}

Json Choice::to_json(Endpoint endpoint, int64_t index, const ExitConfig& exit, int loops) const {
  REPRISE_CHECK(end_, "an answer that has not ended");
  const bool chat = endpoint == Endpoint::Chat;
  Json json = {{"index", index}, {"finish_reason", finish_reason(*end_)}, {"logprobs", nullptr}};
  if (chat)
    json["message"] = {
        {"role", "assistant"}, {"content", to_valid_utf8(text_)}, {"refusal", nullptr}};
  else
    json["text"] = to_valid_utf8(text_);
  if (logprobs_) json["logprobs"] = chat ? chat_logprobs() : completion_logprobs();
  if (!exit.active()) return json;
  // As `reprise run --json` counts: the first token is the prompt's, none is run for it.
  const auto run = std::span(loops_).subspan(1);
  const double sum = std::accumulate(run.begin(), run.end(), 0.0);
  json["exit"] = {{"rule", exit_text(exit)},
                  {"kv", exit_kv_name(exit.kv)},
                  {"mode", exit_mode_name(exit.mode)},
                  {"loops", loops},
                  {"exit_loops", loops_},
                  {"mean_depth", run.empty() ? loops : 1 + sum / static_cast<double>(run.size())}};
  return json;
}

Json completion_json(const CompletionRequest& request, const CompletionFacts& facts,
                     std::span<const Choice> choices) {
  Json list = Json::array();
  int64_t tokens = 0;
  for (const Choice& choice : choices) {
    tokens += choice.tokens();
    list.push_back(choice.to_json(request.endpoint, std::ssize(list), facts.exit, facts.loops));
  }
  return {{"id", facts.id},
          {"object", request.endpoint == Endpoint::Chat ? "chat.completion" : "text_completion"},
          {"created", facts.created},
          {"model", request.model.empty() ? facts.model : request.model},
          {"choices", std::move(list)},
          {"usage",
           {{"prompt_tokens", facts.prompt_tokens},
            {"completion_tokens", tokens},
            {"total_tokens", facts.prompt_tokens + tokens}}}};
}

Json error_json(const ApiError& error) {
  return {{"error",
           {{"message", error.message},
            {"type", error.status < 500 ? "invalid_request_error" : "server_error"},
            {"param", nullptr},
            {"code", error.code}}}};
}

}  // namespace reprise
