// One answer while it is made: logits in, tokens and text out, and when it ends. All rules of an
// answer are here and nowhere else, so that whoever runs the model (the generator, a beam search, a
// scheduler) gives the same answer. No model, no input or output, no thread of its own.
//
//   logits --processors--> sampler --token--> end tokens, text decoder --text--> stop texts
//
// An answer can be copied at any point; copies go on by themselves (beams). Copies share the rules
// and the prompt.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/logits_processor.h"
#include "engine/sampler.h"
#include "text/tokenizer/stream_decoder.h"

namespace reprise {

// Why an answer ended.
enum class StopReason {
  EndToken,     // a token of AnswerRules::ends
  StopString,   // a text of AnswerRules::stops
  MaxTokens,    // AnswerRules::max_tokens
  ContextFull,  // AnswerRules::context_tokens
  Cancelled,    // by whoever runs it
  Deadline      // it took longer than it was given
};
// "end", "stop", "length", "context", "cancelled", "deadline"
std::string stop_reason_name(StopReason reason);

struct AnswerRules {
  const Tokenizer* tokenizer = nullptr;  // must outlive the answer; null: no text, no stop texts
  int64_t vocab = 0;                     // only tokens below it may be chosen; 0: all
  SamplerOptions sampler;
  LogitsProcessors processors;     // before the sampler
  std::vector<int32_t> ends;       // tokens that end the answer; not part of its text
  std::vector<std::string> stops;  // texts that end it; not part of its text. Special tokens, which
                                   // are left out of the text, count as they are written
  int64_t max_tokens = 0;          // 0: no limit
  int64_t context_tokens = 0;      // what the context has room for; 0: no limit

  // Of both limits the smaller one; 0: none.
  int64_t most_tokens() const;
};

// What one more token brought.
struct AnswerEvent {
  int32_t token = 0;
  std::string text;  // whole characters that are certain now; all of them joined are the text
  std::optional<StopReason> end;  // why this was the last one
};

class Answer {
 public:
  // prompt: for the processors. Throws Error where a rule is out of range (see SamplerOptions) or a
  // stop text is empty.
  explicit Answer(AnswerRules rules, std::span<const int32_t> prompt = {});

  // Chooses the next token from logits [at least vocab]. Throws Error naming the step when a logit
  // is NaN or none is finite.
  AnswerEvent push(std::span<const float> logits);
  // The same where the token is chosen elsewhere. A beam search goes on behind an end too, with
  // beams that can't win any more: the text then goes on as well, and a stop text stays the end.
  AnswerEvent append(int32_t token);
  // Ends it from outside; returns the text that was held back. The reason is not heeded where that
  // text holds a stop text.
  std::string finish(StopReason reason);

  // Runs the processors over scores [n] of the next token.
  void process(std::span<float> scores) const;

  const std::vector<int32_t>& tokens() const { return tokens_; }  // an end token included
  const std::string& text() const { return text_; }               // all that was handed out
  std::optional<StopReason> end() const { return end_; }
  const AnswerRules& rules() const { return shared_->rules; }

 private:
  struct Shared {
    AnswerRules rules;
    std::vector<int32_t> prompt;
  };
  std::string decode(int32_t token);

  std::shared_ptr<const Shared> shared_;
  Sampler sampler_;
  std::optional<StreamDecoder> decoder_;  // with a tokenizer
  StopMatcher stops_;
  std::vector<int32_t> tokens_;
  std::string text_;
  std::optional<StopReason> end_;
  std::vector<float> scores_;  // work memory of push
};

}  // namespace reprise
