#include "engine/generator.h"

#include <chrono>

#include "base/clock.h"

namespace reprise {
namespace {

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

double Generation::prefill_rate() const {
  const auto run = static_cast<double>(prompt_tokens - reused_tokens);
  return prefill_seconds > 0 ? run / prefill_seconds : 0;
}

double Generation::decode_rate() const {
  return decode_seconds > 0 ? static_cast<double>(decode_steps) / decode_seconds : 0;
}

// What both ways of decoding need to know.
struct Generator::Request {
  const GenerationOptions& options;
  const std::function<void(std::string_view)>& on_text;
  Answer answer;                    // the rules, and the prompt for its processors
  Clock::time_point start, chosen;  // of prefill; when the first token was chosen
  bool cancelled() const { return options.cancel != nullptr && *options.cancel; }
};

Generator::Generator(LoadedModel& loaded, const GeneratorOptions& options)
    : loaded_(loaded), options_(options), plans_(make_plans(loaded.model(), options.plan)) {}

Generation Generator::generate(const Prompt& prompt, const GenerationOptions& options,
                               const std::function<void(std::string_view)>& on_text) {
  options.check();
  const TokenPrompt& input = prompt.tokens;
  check_context(loaded_, prompt, options);
  Request request{options, on_text, Answer(answer_rules(loaded_, prompt, options), input.ids)};
  Generation result;
  result.prompt_tokens = input.size();
  Session session(loaded_.model(), plans_, options_.chunk, options.exit);
  session.set_initial(
      std::make_shared<const InitialStates>(InitialStates{.seed = options.sampler.seed}));
  if (options.exit.active()) {
    loaded_.model().check_exit(options.exit, plans_->decode);
    result.loops = plans_->decode.loops();
    result.mean_depth = result.loops;
  }
  request.start = request.chosen = Clock::now();
  result.first_logits = session.prefill(input, options_.reuse_prefix ? &prefix_ : nullptr,
                                        [&] { return request.cancelled(); });
  request.chosen = Clock::now();
  result.prefill_seconds = seconds(request.start, request.chosen);
  result.reused_tokens = session.prefix_tokens();
  if (result.first_logits.empty()) {
    result.stop = StopReason::Cancelled;
    return result;
  }
  if (options.beam.beams > 1) {
    decode_beams(session, request, result);
  } else {
    decode_stream(session, request, result);
    result.kv_bytes = session.kv_bytes();
  }
  result.first_token_seconds = seconds(request.start, request.chosen);
  result.decode_seconds = seconds(request.chosen, Clock::now());
  return result;
}

void Generator::decode_stream(Session& session, Request& request, Generation& result) {
  Answer& answer = request.answer;
  const auto hand_out = [&](const std::string& text) {
    if (request.on_text && !text.empty()) request.on_text(text);
  };
  const bool leaves_early = result.loops > 0;
  std::vector<float> logits = result.first_logits;
  int64_t loops_run = 0;
  int exit_loop = session.prompt_loops().empty() ? result.loops - 1 : session.prompt_loops().back();
  while (!request.cancelled()) {
    const AnswerEvent event = answer.push(logits);
    if (answer.tokens().size() == 1) request.chosen = Clock::now();
    if (leaves_early) result.exit_loops.push_back(exit_loop);
    hand_out(event.text);
    if (event.end) break;
    if (leaves_early) {
      LoopExit exit = session.decode_exit(event.token);
      logits = std::move(exit.logits);
      exit_loop = exit.loop;
      loops_run += exit.loop + 1;
    } else {
      logits = session.decode(event.token);
    }
    ++result.decode_steps;
  }
  if (leaves_early && result.decode_steps > 0)
    result.mean_depth = static_cast<double>(loops_run) / static_cast<double>(result.decode_steps);
  if (!answer.end()) hand_out(answer.finish(StopReason::Cancelled));
  result.tokens = answer.tokens();
  result.text = answer.text();
  result.stop = *answer.end();
}

void Generator::decode_beams(Session& session, Request& request, Generation& result) {
  BeamSearch search(request.options.beam, request.answer);
  Branches branches(loaded_.model(), plans_, session, request.options.exit);
  result.decode_steps =
      run_search(branches, search, result.first_logits, [&] { return request.cancelled(); });
  result.kv_bytes = branches.size() > 0 ? branches.kv_bytes() : session.kv_bytes();
  if (branches.tokens_run() > 0)
    result.mean_depth =
        static_cast<double>(branches.loops_run()) / static_cast<double>(branches.tokens_run());

  const std::vector<BeamSearch::Hypothesis> found = search.results();
  for (const BeamSearch::Hypothesis& beam : found) {
    result.beams.push_back({beam.text, beam.tokens, beam.score});
  }
  const BeamSearch::Hypothesis& best = found.at(0);
  result.text = best.text;
  result.tokens = best.tokens;
  result.stop = search.done() ? best.end.value() : StopReason::Cancelled;
  if (request.on_text && !result.text.empty()) request.on_text(result.text);
}

}  // namespace reprise
