// What the scheduler is asked for and what it answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "engine/answer.h"
#include "engine/session.h"

namespace reprise {

using RequestId = uint64_t;  // given by Scheduler::submit, from 1, ascending

struct ServeEvent {
  enum class Kind {
    Token,  // one more token; the last one is followed by End
    End,    // the answer is complete, or was ended from outside; `text` is what was held back
    Error,  // it can't go on; what was handed out before stands
  };
  RequestId id = 0;
  Kind kind = Kind::Token;
  int32_t token = 0;
  std::string text;  // Token, End: whole characters; all of a request's joined are its answer
  // Token: the loop (0-based) whose logits it was chosen from; the last one where nothing leaves, 0
  // for a model without loops.
  int loop = 0;
  std::span<const float> logits;              // Token: [vocab], for as long as the call lasts
  Clock::time_point computed;                 // Token: when its logits were there
  StopReason reason = StopReason::Cancelled;  // End
  std::string error;                          // Error
  int64_t cached_tokens = 0;                  // of the prompt: taken from earlier requests
  int64_t kv_bytes = 0;                       // End: of its pages, those that others share included
};

struct ServeRequest {
  TokenPrompt prompt;
  AnswerRules rules;  // sampler, ends, stop texts, most tokens
  ExitConfig exit;    // how generated tokens leave loops
  // Where the model's initial states come from, where it has some; null: drawn with the sampler's
  // seed.
  std::shared_ptr<const InitialStates> initial;
  // For measurements: the loop at whose end a generated token (from 0) leaves, whatever its score,
  // which is computed all the same. Empty: `exit` alone decides.
  std::function<int(int64_t token)> forced_exits;
  std::shared_ptr<const Plans> plans;         // requests that hold the same object share cohorts
  int priority = 0;                           // higher ones are admitted first
  std::optional<Clock::time_point> deadline;  // ends it, wherever it is
  // Called on the engine thread, between the blocks' sweeps; must not throw and not block. It may
  // submit and cancel.
  std::function<void(const ServeEvent&)> on_event;
};

}  // namespace reprise
