#include "engine/generation_options.h"

#include <algorithm>

namespace reprise {

void GenerationOptions::check() const {
  sampler.check();
  RepetitionPenalty{repetition_penalty};  // for its check
  beam.check();
  if (beam.beams > 1 && sampler.temperature > 0) {
    fail("temperature {} with {} beams: a beam search does not sample; expected 0",
         sampler.temperature, beam.beams);
  }
}

int64_t context_tokens(const LoadedModel& loaded, const GenerationOptions& options) {
  return options.context_tokens > 0 ? options.context_tokens : loaded.context_limit();
}

void check_context(const LoadedModel& loaded, const Prompt& prompt,
                   const GenerationOptions& options) {
  const int64_t limit = context_tokens(loaded, options), length = prompt.tokens.size();
  if (limit == 0 || length <= limit) return;
  fail("the prompt has {} tokens; the context of {} has {}", length, loaded.config().where, limit);
}

AnswerRules answer_rules(LoadedModel& loaded, const Prompt& prompt,
                         const GenerationOptions& options) {
  const Tokenizer& tokenizer = loaded.tokenizer();
  AnswerRules rules;
  rules.tokenizer = &tokenizer;
  // Some models have more logits than tokens, for the sake of round numbers: those can't be text.
  rules.vocab = std::min<int64_t>(loaded.config().text.vocab, tokenizer.vocab_size());
  rules.sampler = options.sampler;
  if (options.repetition_penalty != 1) {
    rules.processors.push_back(std::make_shared<RepetitionPenalty>(options.repetition_penalty));
  }
  rules.ends = loaded.end_tokens();
  rules.stops = options.stop;
  for (const std::string& stop : prompt.stops) {
    // Most are a token of their own: then it is the model that ends the answer.
    if (const auto id = tokenizer.find(stop)) rules.ends.push_back(*id);
    rules.stops.push_back(stop);
  }
  rules.max_tokens = options.max_tokens;
  const int64_t limit = context_tokens(loaded, options);
  // The last token is not run.
  if (limit > 0) rules.context_tokens = limit - prompt.tokens.size() + 1;
  return rules;
}

}  // namespace reprise
