#include "engine/answer.h"

#include <algorithm>

#include "base/error.h"

namespace reprise {

std::string stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::EndToken:
      return "end";
    case StopReason::StopString:
      return "stop";
    case StopReason::MaxTokens:
      return "length";
    case StopReason::ContextFull:
      return "context";
    case StopReason::Cancelled:
      return "cancelled";
    case StopReason::Deadline:
      return "deadline";
  }
  return "";
}

int64_t AnswerRules::most_tokens() const {
  if (max_tokens == 0 || context_tokens == 0) return std::max(max_tokens, context_tokens);
  return std::min(max_tokens, context_tokens);
}

Answer::Answer(AnswerRules rules, std::span<const int32_t> prompt)
    : sampler_(rules.sampler), stops_(rules.stops) {
  if (rules.tokenizer != nullptr) decoder_.emplace(*rules.tokenizer, /*skip_special=*/true);
  std::sort(rules.ends.begin(), rules.ends.end());
  rules.ends.erase(std::unique(rules.ends.begin(), rules.ends.end()), rules.ends.end());
  shared_ = std::make_shared<const Shared>(
      Shared{std::move(rules), std::vector<int32_t>(prompt.begin(), prompt.end())});
}

void Answer::process(std::span<float> scores) const {
  for (const auto& processor : rules().processors) {
    processor->process(scores, shared_->prompt, tokens_);
  }
}

AnswerEvent Answer::push(std::span<const float> logits) {
  if (rules().vocab > 0) {
    REPRISE_CHECK(std::ssize(logits) >= rules().vocab, "{} logits for {} tokens", logits.size(),
                  rules().vocab);
    logits = logits.first(static_cast<size_t>(rules().vocab));
  }
  const auto step = static_cast<int64_t>(tokens_.size());
  if (rules().processors.empty()) return append(sampler_.sample(logits, step));
  argmax(logits, fmt::format("generation step {}", step));  // for its checks
  scores_.assign(logits.begin(), logits.end());
  process(scores_);
  return append(sampler_.sample(scores_, step));
}

// The text that is certain after this token.
std::string Answer::decode(int32_t token) {
  if (!decoder_) return {};
  const Tokenizer& tokenizer = *rules().tokenizer;
  if (tokenizer.is_special(token)) {
    return stops_.push_hidden(tokenizer.token_bytes(token));
  }
  return stops_.push(decoder_->push(token));
}

AnswerEvent Answer::append(int32_t token) {
  tokens_.push_back(token);
  end_.reset();
  AnswerEvent event{token, {}, {}};
  const auto length = static_cast<int64_t>(tokens_.size());
  std::optional<StopReason> reason;
  if (std::binary_search(rules().ends.begin(), rules().ends.end(), token)) {
    reason = StopReason::EndToken;
  } else {
    event.text = decode(token);
    text_ += event.text;
    if (stops_.stopped()) {
      reason = StopReason::StopString;
    } else if (length == rules().max_tokens) {
      reason = StopReason::MaxTokens;
    } else if (length == rules().context_tokens) {
      reason = StopReason::ContextFull;
    }
  }
  if (reason) event.text += finish(*reason);
  event.end = end_;
  return event;
}

std::string Answer::finish(StopReason reason) {
  std::string rest;
  if (decoder_) rest = stops_.push(decoder_->flush());
  if (stops_.stopped()) {
    reason = StopReason::StopString;
  } else {
    rest += stops_.flush();
  }
  end_ = reason;
  text_ += rest;
  return rest;
}

}  // namespace reprise
