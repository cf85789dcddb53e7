#include "engine/generator.h"

#include <limits>

namespace reprise {
namespace {

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

bool cancelled(const GenerationOptions& options) {
  return options.cancel != nullptr && *options.cancel;
}

SchedulerOptions scheduler_options(LoadedModel& loaded, const GeneratorOptions& options,
                                   const Plans& plans) {
  SchedulerOptions scheduler;
  scheduler.prompt_rows = options.chunk;
  if (!options.reuse_prefix) return scheduler;
  const int64_t rows =
      std::max(std::ssize(plans.prefill.kv_rows), std::ssize(plans.decode.kv_rows));
  const int64_t context = loaded.context_limit();
  scheduler.prefixes.bytes = context > 0 ? kv_bytes(loaded.model().kv_spec(), rows, context)
                                         : std::numeric_limits<int64_t>::max();
  scheduler.prefixes.least_tokens = 1;
  scheduler.prefixes.answers = true;
  return scheduler;
}

// What came of the request so far. The scheduler's request holds it, too.
struct Received {
  Generation result;
  std::string fresh;  // text that nobody has been given yet
  std::string error;
  bool ended = false;
  Clock::time_point computed, chosen;  // of the first token: its logits; itself
  int64_t loops_run = 0;               // of tokens behind the prompt

  void take(const ServeEvent& event);
};

void Received::take(const ServeEvent& event) {
  fresh += event.text;
  result.text += event.text;
  result.reused_tokens = event.cached_tokens;
  switch (event.kind) {
    case ServeEvent::Kind::Token:
      if (result.tokens.empty()) {
        chosen = Clock::now();
        computed = event.computed;
        result.first_logits.assign(event.logits.begin(), event.logits.end());
      } else {
        ++result.decode_steps;
        loops_run += event.loop + 1;
      }
      result.tokens.push_back(event.token);
      if (result.loops > 0) result.exit_loops.push_back(event.loop);
      break;
    case ServeEvent::Kind::End:
      result.stop = event.reason;
      result.kv_bytes = event.kv_bytes;
      ended = true;
      break;
    case ServeEvent::Kind::Error:
      error = event.error;
      ended = true;
      break;
  }
}

}  // namespace

double Generation::prefill_rate() const {
  const auto run = static_cast<double>(prompt_tokens - reused_tokens);
  return prefill_seconds > 0 ? run / prefill_seconds : 0;
}

double Generation::decode_rate() const {
  return decode_seconds > 0 ? static_cast<double>(decode_steps) / decode_seconds : 0;
}

Generator::Generator(LoadedModel& loaded, const GeneratorOptions& options)
    : loaded_(loaded),
      options_(options),
      plans_(make_plans(loaded.model(), options.plan)),
      scheduler_(loaded.model(), scheduler_options(loaded, options, *plans_)) {}

Generation Generator::generate(const Prompt& prompt, const GenerationOptions& options,
                               const TextSink& on_text) {
  options.check();
  check_context(loaded_, prompt, options);
  if (options.exit.active()) loaded_.model().check_exit(options.exit, plans_->decode);
  return options.beam.beams > 1 ? search(prompt, options, on_text)
                                : stream(prompt, options, on_text);
}

Generation Generator::stream(const Prompt& prompt, const GenerationOptions& options,
                             const TextSink& on_text) {
  const auto received = std::make_shared<Received>();
  Generation& result = received->result;
  result.prompt_tokens = prompt.tokens.size();
  if (options.exit.active()) result.mean_depth = result.loops = plans_->decode.loops();
  ServeRequest request;
  request.prompt = prompt.tokens;
  request.rules = answer_rules(loaded_, prompt, options);
  request.exit = options.exit;
  request.plans = plans_;
  request.on_event = [received](const ServeEvent& event) { received->take(event); };
  const Clock::time_point start = received->computed = received->chosen = Clock::now();
  const RequestId id = scheduler_.submit(std::move(request));
  try {
    while (!received->ended) {
      if (cancelled(options)) scheduler_.cancel(id);
      scheduler_.sweep();
      const std::string text = std::exchange(received->fresh, {});
      if (on_text && !text.empty()) on_text(text);
    }
  } catch (...) {  // from on_text
    scheduler_.cancel(id);
    scheduler_.run_until_idle();
    throw;
  }
  if (!received->error.empty()) throw Error(received->error);
  if (result.loops > 0 && result.decode_steps > 0)
    result.mean_depth =
        static_cast<double>(received->loops_run) / static_cast<double>(result.decode_steps);
  result.prefill_seconds = seconds(start, received->computed);
  result.first_token_seconds = seconds(start, received->chosen);
  result.decode_seconds = seconds(received->chosen, Clock::now());
  return std::move(result);
}

Generation Generator::search(const Prompt& prompt, const GenerationOptions& options,
                             const TextSink& on_text) {
  const auto is_cancelled = [&] { return cancelled(options); };
  const TokenPrompt& input = prompt.tokens;
  Generation result;
  result.prompt_tokens = input.size();
  if (options.exit.active()) result.mean_depth = result.loops = plans_->decode.loops();
  Session session(loaded_.model(), plans_, options_.chunk, options.exit);
  session.set_initial(
      std::make_shared<const InitialStates>(InitialStates{.seed = options.sampler.seed}));
  const Clock::time_point start = Clock::now();
  result.first_logits = session.prefill(
      input, options_.reuse_prefix ? &scheduler_.prefixes() : nullptr, is_cancelled);
  const Clock::time_point chosen = Clock::now();
  result.prefill_seconds = result.first_token_seconds = seconds(start, chosen);
  result.reused_tokens = session.prefix_tokens();
  if (result.first_logits.empty()) {
    result.stop = StopReason::Cancelled;
    return result;
  }
  BeamSearch search(options.beam, Answer(answer_rules(loaded_, prompt, options), input.ids));
  Branches branches(loaded_.model(), plans_, session, options.exit);
  result.decode_steps = run_search(branches, search, result.first_logits, is_cancelled);
  result.decode_seconds = seconds(chosen, Clock::now());
  result.kv_bytes = branches.size() > 0 ? branches.kv_bytes() : session.kv_bytes();
  if (branches.tokens_run() > 0)
    result.mean_depth =
        static_cast<double>(branches.loops_run()) / static_cast<double>(branches.tokens_run());

  const std::vector<BeamSearch::Hypothesis> found = search.results();
  for (const BeamSearch::Hypothesis& beam : found)
    result.beams.push_back({beam.text, beam.tokens, beam.score});
  const BeamSearch::Hypothesis& best = found.at(0);
  result.text = best.text;
  result.tokens = best.tokens;
  result.stop = search.done() ? best.end.value() : StopReason::Cancelled;
  if (on_text && !result.text.empty()) on_text(result.text);
  return result;
}

}  // namespace reprise
