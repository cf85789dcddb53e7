#include "engine/generator.h"

#include <algorithm>
#include <chrono>

#include "text/stream_decoder.h"

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
  return decode_seconds > 0 && tokens.size() > 1
             ? static_cast<double>(tokens.size() - 1) / decode_seconds
             : 0;
}

Generator::Generator(Engine& engine, const GeneratorOptions& options)
    : engine_(engine), options_(options), plans_(make_plans(engine.model(), options.plan)) {}

Generation Generator::generate(const Prompt& prompt, const GenerationOptions& options,
                               const std::function<void(std::string_view)>& on_text) {
  const Tokenizer& tokenizer = engine_.tokenizer();
  const TokenPrompt& input = prompt.tokens;
  const int64_t limit = engine_.context_limit();
  if (limit > 0 && input.size() > limit) {
    fail("the prompt has {} tokens; the context of {} has {}", input.size(), engine_.config().where,
         limit);
  }
  // Some models have more logits than tokens, for the sake of round numbers: those can't be text.
  const int64_t vocab = std::min<int64_t>(engine_.config().text.vocab, tokenizer.vocab_size());
  Sampler sampler(options.sampler, vocab);
  for (const int32_t id : input.ids) sampler.see(id);
  StreamDecoder decoder(tokenizer, /*skip_special=*/true);
  std::vector<int32_t> ends = engine_.end_tokens();
  std::vector<std::string> stop_strings = options.stop;
  for (const std::string& stop : prompt.stops) {
    // Most are a special token, which the decoder leaves out of the text.
    if (const auto id = tokenizer.find(stop)) ends.push_back(*id);
    stop_strings.push_back(stop);
  }
  StopMatcher stops(stop_strings);
  const auto cancelled = [&] { return options.cancel != nullptr && *options.cancel; };

  Generation result;
  result.prompt_tokens = input.size();
  const auto hand_out = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (on_text) on_text(text);
  };

  Session session(engine_.model(), plans_, options_.chunk);
  const Clock::time_point start = Clock::now();
  std::vector<float> logits =
      session.prefill(input, options_.reuse_prefix ? &prefix_ : nullptr, cancelled);
  const Clock::time_point prefilled = Clock::now();
  result.prefill_seconds = seconds(start, prefilled);
  result.reused_tokens = session.prefix_tokens();
  if (logits.empty()) {
    result.stop = StopReason::Cancelled;
    return result;
  }
  result.first_logits = logits;

  Clock::time_point first = prefilled;
  for (int64_t step = 0;; ++step) {
    if (cancelled()) {
      result.stop = StopReason::Cancelled;
      break;
    }
    const int32_t token = sampler.sample(std::span(logits).first(static_cast<size_t>(vocab)), step);
    if (step == 0) first = Clock::now();
    sampler.see(token);
    result.tokens.push_back(token);
    if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
      result.stop = StopReason::EndToken;
      break;
    }
    hand_out(stops.push(decoder.push(token)));
    if (stops.stopped()) break;
    if (options.max_tokens > 0 && step + 1 >= options.max_tokens) {
      result.stop = StopReason::MaxTokens;
      break;
    }
    if (limit > 0 && session.length() >= limit) {
      result.stop = StopReason::ContextFull;
      break;
    }
    logits = session.decode(token);
  }
  result.first_token_seconds = seconds(start, first);
  result.decode_seconds = seconds(first, Clock::now());
  hand_out(stops.push(decoder.flush()));
  if (stops.stopped()) {
    result.stop = StopReason::StopString;
  } else {
    hand_out(stops.flush());
  }
  result.kv_bytes = session.kv_bytes();
  return result;
}

}  // namespace reprise
