#include "trace/trace_beams.h"

#include <algorithm>

#include "engine/token_inputs.h"

namespace reprise {

void trace_beams(LoadedModel& loaded, const TokenInputs& inputs, const TraceOptions& options,
                 const BeamOptions& beam, std::vector<TensorView>& results) {
  if (options.steps < 1) fail("beam search: expected 1 token or more, found {}", options.steps);
  AnswerRules rules;
  for (const int64_t id : loaded.config().eos_tokens) {
    rules.ends.push_back(static_cast<int32_t>(id));
  }
  rules.max_tokens = options.steps;
  BeamSearch search(beam, Answer(rules));
  const auto plans = make_plans(loaded.model(), options.plan);
  Session session(loaded.model(), plans, options.chunk);
  session.set_initial(initial_states(loaded.model(), plans->decode, inputs, /*steps=*/0,
                                     draws_states(loaded.model(), options.plan)));
  const std::vector<float> logits = session.prefill(token_prompt(loaded, inputs));
  Branches branches(loaded.model(), plans, session);
  run_search(branches, search, logits);

  const std::vector<BeamSearch::Hypothesis> found = search.results();
  size_t longest = 0;
  for (const auto& hypothesis : found) longest = std::max(longest, hypothesis.tokens.size());
  std::vector<int64_t> tokens;
  std::vector<float> scores;
  for (const auto& hypothesis : found) {
    tokens.insert(tokens.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
    tokens.resize(tokens.size() + longest - hypothesis.tokens.size(), -1);
    scores.push_back(hypothesis.score);
  }
  const int64_t rows = std::ssize(found);
  results.push_back(make_view("beams.tokens", {rows, static_cast<int64_t>(longest)},
                              std::span<const int64_t>(tokens)));
  results.push_back(make_view("beams.scores", {rows}, std::span<const float>(scores)));
}

}  // namespace reprise
