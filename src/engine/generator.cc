#include "engine/generator.h"

#include <algorithm>
#include <chrono>

#include "text/tokenizer/stream_decoder.h"

namespace reprise {

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::string stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::EndToken:
      return "end";
    case StopReason::StopString:
      return "stop";
    case StopReason::MaxTokens:
      return "length";
    case StopReason::ContextFull:
      return "context";
    case StopReason::Cancelled:
      return "cancelled";
  }
  return "";
}

double Generation::prefill_rate() const {
  const auto run = static_cast<double>(prompt_tokens - reused_tokens);
  return prefill_seconds > 0 ? run / prefill_seconds : 0;
}

double Generation::decode_rate() const {
  return decode_seconds > 0 ? static_cast<double>(decode_steps) / decode_seconds : 0;
}

// What both ways of decoding need to know.
struct Generator::Request {
  const Prompt& prompt;
  const GenerationOptions& options;
  const std::function<void(std::string_view)>& on_text;
  int64_t vocab = 0;                // tokens that can be chosen
  std::vector<int32_t> ends;        // tokens that end an answer
  std::vector<std::string> stops;   // and texts
  int64_t max_tokens = 0;           // the context's end counted in; 0: no limit
  Clock::time_point start, chosen;  // of prefill; when the first token was chosen
  bool ends_with(int32_t token) const {
    return std::find(ends.begin(), ends.end(), token) != ends.end();
  }
  bool cancelled() const { return options.cancel != nullptr && *options.cancel; }
};

Generator::Generator(LoadedModel& engine, const GeneratorOptions& options)
    : engine_(engine), options_(options), plans_(make_plans(engine.model(), options.plan)) {}

Generation Generator::generate(const Prompt& prompt, const GenerationOptions& options,
                               const std::function<void(std::string_view)>& on_text) {
  options.sampler.check();
  options.beam.check();
  if (options.beam.beams > 1 && options.sampler.temperature > 0) {
    fail("temperature {} with {} beams: a beam search does not sample; expected 0",
         options.sampler.temperature, options.beam.beams);
  }
  const Tokenizer& tokenizer = engine_.tokenizer();
  const TokenPrompt& input = prompt.tokens;
  const int64_t limit = engine_.context_limit();
  if (limit > 0 && input.size() > limit) {
    fail("the prompt has {} tokens; the context of {} has {}", input.size(), engine_.config().where,
         limit);
  }
  Request request{prompt, options, on_text};
  // Some models have more logits than tokens, for the sake of round numbers: those can't be text.
  request.vocab = std::min<int64_t>(engine_.config().text.vocab, tokenizer.vocab_size());
  request.ends = engine_.end_tokens();
  request.stops = options.stop;
  for (const std::string& stop : prompt.stops) {
    // Most are a special token, which the decoder leaves out of the text.
    if (const auto id = tokenizer.find(stop)) request.ends.push_back(*id);
    request.stops.push_back(stop);
  }
  request.max_tokens = options.max_tokens;
  if (limit > 0) {
    const int64_t room = limit - input.size() + 1;  // the last token is not run
    request.max_tokens = options.max_tokens > 0 ? std::min(options.max_tokens, room) : room;
  }

  Generation result;
  result.prompt_tokens = input.size();
  Session session(engine_.model(), plans_, options_.chunk);
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
  if (result.stop == StopReason::MaxTokens && request.max_tokens != options.max_tokens) {
    result.stop = StopReason::ContextFull;
  }
  return result;
}

void Generator::decode_stream(Session& session, Request& request, Generation& result) {
  Sampler sampler(request.options.sampler, request.vocab);
  for (const int32_t id : request.prompt.tokens.ids) sampler.see(id);
  StreamDecoder decoder(engine_.tokenizer(), /*skip_special=*/true);
  StopMatcher stops(request.stops);
  const auto hand_out = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (request.on_text) request.on_text(text);
  };
  std::vector<float> logits = result.first_logits;
  for (int64_t step = 0;; ++step) {
    if (request.cancelled()) {
      result.stop = StopReason::Cancelled;
      break;
    }
    const int32_t token =
        sampler.sample(std::span(logits).first(static_cast<size_t>(request.vocab)), step);
    if (step == 0) request.chosen = Clock::now();
    sampler.see(token);
    result.tokens.push_back(token);
    if (request.ends_with(token)) {
      result.stop = StopReason::EndToken;
      break;
    }
    hand_out(stops.push(decoder.push(token)));
    if (stops.stopped()) break;
    if (step + 1 == request.max_tokens) {
      result.stop = StopReason::MaxTokens;
      break;
    }
    logits = session.decode(token);
    ++result.decode_steps;
  }
  hand_out(stops.push(decoder.flush()));
  if (stops.stopped()) {
    result.stop = StopReason::StopString;
  } else {
    hand_out(stops.flush());
  }
}

void Generator::decode_beams(Session& session, Request& request, Generation& result) {
  // The text of an answer, and whether a stop text cut it.
  const auto text_of = [&](std::span<const int32_t> tokens) {
    StreamDecoder decoder(engine_.tokenizer(), /*skip_special=*/true);
    StopMatcher stops(request.stops);
    std::string text;
    for (const int32_t token : tokens) text += stops.push(decoder.push(token));
    text += stops.push(decoder.flush());
    if (!stops.stopped()) text += stops.flush();
    return std::pair(text, stops.stopped());
  };
  BeamLimits limits{request.ends, request.max_tokens, {}};
  if (!request.stops.empty()) {
    limits.text_ends = [&](std::span<const int32_t> tokens) { return text_of(tokens).second; };
  }
  BeamSearch search(request.options.beam, limits, request.options.sampler.repetition_penalty,
                    request.prompt.tokens.ids);
  Branches branches(engine_.model(), plans_, session);
  result.decode_steps = run_search(branches, search, result.first_logits, request.vocab,
                                   [&] { return request.cancelled(); });
  result.kv_bytes = branches.size() > 0 ? branches.kv_bytes() : session.kv_bytes();

  for (BeamSearch::Hypothesis& found : search.results()) {
    result.beams.push_back({text_of(found.tokens).first, std::move(found.tokens), found.score});
  }
  const BeamAnswer& best = result.beams.at(0);
  result.text = best.text;
  result.tokens = best.tokens;
  if (!search.done()) {
    result.stop = StopReason::Cancelled;
  } else if (request.ends_with(best.tokens.back())) {
    result.stop = StopReason::EndToken;
  } else if (text_of(best.tokens).second) {
    result.stop = StopReason::StopString;
  } else {
    result.stop = StopReason::MaxTokens;
  }
  if (request.on_text && !result.text.empty()) request.on_text(result.text);
}

}  // namespace reprise
