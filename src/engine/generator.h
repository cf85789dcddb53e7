// Text generation: one request after the other, streamed, through the scheduler; or by beam search.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/generation_options.h"
#include "engine/serve/scheduler.h"

namespace reprise {

struct BeamAnswer {
  std::string text;
  std::vector<int32_t> tokens;
  float score = 0;  // sum of log-probabilities / length^length_penalty
};

struct Generation {
  std::string text;
  std::vector<int32_t> tokens;  // generated, the end token included
  StopReason stop = StopReason::EndToken;
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt, taken from an earlier one
  // Seconds. prefill: to the logits of the prompt's end. first_token: from the start of prefill to
  // the first token's choice. decode: from there to the end, over decode_steps tokens that were run.
  double prefill_seconds = 0;
  double first_token_seconds = 0;
  double decode_seconds = 0;
  int64_t kv_bytes = 0;      // of this request at its end
  int64_t decode_steps = 0;  // of tokens after the prompt; of beams: forward calls
  // With an exit rule: by token the loop (0-based) whose logits it was chosen from; the first one's
  // is the last loop where a prompt's positions have no exits. Empty with several beams.
  std::vector<int> exit_loops;
  int loops = 0;  // that a token could run at most; 0: without an exit rule
  // Loops per token after the prompt, up to the one whose logits it gave; `loops` where there was
  // none. Where states are only selected, all of them were run.
  double mean_depth = 0;
  std::vector<float> first_logits;  // what the first token was chosen from, [vocab]
  std::vector<BeamAnswer> beams;    // with several beams, best first; the first is the answer

  // Tokens run per second (decode: of each beam); 0 where nothing was run.
  double prefill_rate() const;
  double decode_rate() const;
};

struct GeneratorOptions {
  PlanOptions plan;
  int64_t chunk = 512;  // most prompt tokens that are run at once, >= 1
  // Keep the KV of prompts and answers for prompts that begin the same way: a conversation's turns,
  // questions about one picture. At most what the model's context takes.
  bool reuse_prefix = false;
};

// Runs prompts on a model, which must outlive it. The result of a prompt depends on nothing that
// ran before.
class Generator {
 public:
  // Throws Error for a plan that doesn't fit the model or an option out of range.
  Generator(LoadedModel& loaded, const GeneratorOptions& options);

  // on_text gets the answer in pieces of whole characters; all pieces joined are Generation::text.
  // With several beams it gets it in one piece at the end. Throws Error when the prompt doesn't fit
  // the context, an option is out of range, or logits are NaN.
  Generation generate(const Prompt& prompt, const GenerationOptions& options,
                      const std::function<void(std::string_view)>& on_text = {});

  const Plans& plans() const { return *plans_; }

 private:
  using TextSink = std::function<void(std::string_view)>;
  Generation stream(const Prompt& prompt, const GenerationOptions& options,
                    const TextSink& on_text);
  Generation search(const Prompt& prompt, const GenerationOptions& options,
                    const TextSink& on_text);

  LoadedModel& loaded_;
  const GeneratorOptions options_;
  const std::shared_ptr<const Plans> plans_;
  Scheduler scheduler_;
};

}  // namespace reprise
