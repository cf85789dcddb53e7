// What is asked of an answer, and the rules that follow from it for one prompt of one model: the same
// for whoever runs it (the generator, batches of the scheduler).
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "engine/answer.h"
#include "engine/beam_search.h"
#include "engine/loaded_model.h"
#include "engine/prompt.h"

namespace reprise {

struct GenerationOptions {
  SamplerOptions sampler;
  float repetition_penalty = 1;               // see RepetitionPenalty; 1: none
  BeamOptions beam;                           // more than one beam: no sampling, no streaming
  ExitConfig exit;                            // when tokens leave a looped model early
  int64_t max_tokens = 0;                     // 0: until the model stops or the context is full
  int64_t context_tokens = 0;                 // most tokens of prompt and answer; 0: the model's
  std::vector<std::string> stop;              // strings that end the answer; not part of it
  const std::atomic<bool>* cancel = nullptr;  // ends the generation when it becomes true

  // Throws Error naming the option that is out of range, or doesn't go with another.
  void check() const;
};

// How many tokens prompt and answer may have; 0: no limit.
int64_t context_tokens(const LoadedModel& loaded, const GenerationOptions& options);
// Throws Error where the prompt is longer than that.
void check_context(const LoadedModel& loaded, const Prompt& prompt,
                   const GenerationOptions& options);
// The options, with what ends an answer in this model and in the prompt's chat format. The context
// must have room for the prompt (check_context).
AnswerRules answer_rules(LoadedModel& loaded, const Prompt& prompt,
                         const GenerationOptions& options);

}  // namespace reprise
