// Requests as OpenAI's API writes them: the bodies of /v1/chat/completions and /v1/completions. What
// isn't known is refused by name; nothing is left out without a word. docs/batch.md lists the keys.
//
// One key is Reprise's own: "exit", when tokens leave a looped model early.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "engine/asked_exit.h"
#include "engine/generation_options.h"

namespace reprise {

enum class Endpoint { Chat, Completions };
std::string endpoint_url(Endpoint endpoint);  // "/v1/chat/completions"
std::optional<Endpoint> find_endpoint(std::string_view url);

inline constexpr int64_t kMostChoices = 128;     // of one request, "n"
inline constexpr int64_t kMostTopLogprobs = 20;  // beside each token's own
inline constexpr size_t kMostStopTexts = 4;

// What was asked for; nullopt: it isn't said.
struct CompletionRequest {
  Endpoint endpoint = Endpoint::Chat;
  std::vector<ChatTurn> turns;              // Chat: the last one is the user's
  std::string text;                         // Completions: the prompt,
  std::optional<std::vector<int32_t>> ids;  // or its tokens
  std::string model;                        // echoed; "": not said
  std::optional<int64_t> max_tokens;        // >= 1
  std::optional<float> temperature, top_p;  // in the sampler's range
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;  // at most kMostStopTexts, none empty
  int64_t choices = 1;            // answers, 1 to kMostChoices
  bool logprobs = false;          // by token
  int64_t top_logprobs = 0;       // with logprobs: of that many likeliest tokens too
  std::optional<AskedExit> exit;
  bool stream = false;

  // What holds in a model for requests with these options: `defaults` where this one says nothing.
  // Throws Error as AskedExit::in.
  GenerationOptions options(const GenerationOptions& defaults, const Model& model,
                            const PlanOptions& plan) const;
};

// Reads the body at key `prefix` ("body.", or "" where it is all there is). Throws Error beginning
// with `where` that names every key that is wrong, or unknown.
CompletionRequest read_completion_request(Endpoint endpoint, const Json& body,
                                          const std::string& where, const std::string& prefix = "");

}  // namespace reprise
