// Text generation: one request after the other, streamed.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/prompt.h"
#include "engine/sampler.h"
#include "engine/session.h"

namespace reprise {

struct GenerationOptions {
  SamplerOptions sampler;
  int64_t max_tokens = 0;                     // 0: until the model stops or the context is full
  std::vector<std::string> stop;              // strings that end the answer; not part of it
  const std::atomic<bool>* cancel = nullptr;  // ends the generation when it becomes true
};

enum class StopReason { EndToken, StopString, MaxTokens, ContextFull, Cancelled };
std::string stop_reason_name(StopReason reason);  // "end", "stop", "length", "context", "cancelled"

struct Generation {
  std::string text;
  std::vector<int32_t> tokens;  // generated, the end token included
  StopReason stop = StopReason::EndToken;
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt, taken from an earlier one
  // Seconds. first_token: from the start of prefill to the first token's choice. decode: from
  // there to the end, over tokens.size() - 1 forward passes.
  double prefill_seconds = 0;
  double first_token_seconds = 0;
  double decode_seconds = 0;
  int64_t kv_bytes = 0;             // of this request at its end
  std::vector<float> first_logits;  // what the first token was chosen from, [vocab]

  // Tokens run per second; 0 where nothing was run.
  double prefill_rate() const;
  double decode_rate() const;
};

struct GeneratorOptions {
  PlanOptions plan;
  int64_t chunk = 512;        // prompt tokens of one forward call
  bool reuse_prefix = false;  // keep the last prompt's KV for a next one that begins the same way
};

// Runs prompts on an engine, which must outlive it. The result of a prompt depends on nothing that
// ran before.
class Generator {
 public:
  // Throws Error for a plan that doesn't fit the model.
  Generator(Engine& engine, const GeneratorOptions& options);

  // on_text gets the answer in pieces of whole characters; all pieces joined are Generation::text.
  // Throws Error when the prompt doesn't fit the context, an option is out of range, or logits are
  // NaN.
  Generation generate(const Prompt& prompt, const GenerationOptions& options,
                      const std::function<void(std::string_view)>& on_text = {});

  const Plans& plans() const { return *plans_; }

 private:
  Engine& engine_;
  GeneratorOptions options_;
  std::shared_ptr<const Plans> plans_;
  PrefixCache prefix_;
};

}  // namespace reprise
