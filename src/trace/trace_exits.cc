#include "trace/trace_exits.h"

#include <algorithm>
#include <limits>

#include "engine/sampler.h"

namespace reprise {

namespace {

void append(std::vector<float>& to, std::span<const float> values) {
  to.insert(to.end(), values.begin(), values.end());
}

// Row by row of the loops' numbers: -1 where none was computed.
std::vector<float> confidences(const ExitRule& rule, const LoopExit& exit) {
  std::vector<float> all(exit.scores.size(), -1.0f);
  if (rule.config().kind == ExitKind::Confidence)
    for (int loop = 0; loop < exit.loop; ++loop)
      all[static_cast<size_t>(loop)] = static_cast<float>(exit.scores[static_cast<size_t>(loop)]);
  all[static_cast<size_t>(exit.loop)] = static_cast<float>(confidence(exit.logits));
  return all;
}

// [kv_heads, n, width] -> [kv_heads, length, width]: NaN at positions without an entry.
std::vector<float> with_holes(const KvEntries& entries, const std::vector<float>& values,
                              int64_t length) {
  const int64_t n = entries.shape[1], width = entries.shape[2];
  if (n == length) return values;
  std::vector<float> all(static_cast<size_t>(entries.shape[0] * length * width),
                         std::numeric_limits<float>::quiet_NaN());
  for (int64_t head = 0; head < entries.shape[0]; ++head)
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(
          values.begin() + (head * n + i) * width, width,
          all.begin() + (head * length + entries.positions[static_cast<size_t>(i)]) * width);
  return all;
}

}  // namespace

void trace_exits(LoadedModel& loaded, const TokenInputs& inputs, const TraceOptions& options,
                 const ExitConfig& exit, std::vector<TensorView>& results) {
  if (options.steps < 1) fail("early exit: expected 1 step or more, found {}", options.steps);
  Model& model = loaded.model();
  Backend& be = model.backend();
  const auto plans = make_plans(model, options.plan);
  const ExitRule rule(model, plans->decode, exit);
  Session session(model, plans, options.chunk, exit);
  session.set_initial(initial_states(model, plans->decode, inputs, options.steps + 1,
                                     draws_states(model, options.plan)));
  std::vector<int64_t> tokens, loops;
  std::vector<float> logits, hidden, confidence, score;
  std::vector<float> next = session.prefill(token_prompt(loaded, inputs));
  tokens.push_back(argmax(next, "generation step 0"));
  for (int64_t step = 1; step <= options.steps; ++step) {
    const LoopExit left = session.decode_exit(static_cast<int32_t>(tokens.back()));
    tokens.push_back(argmax(left.logits, fmt::format("generation step {}", step)));
    loops.push_back(left.loop);
    append(logits, left.logits);
    append(hidden, be.to_host(left.state));
    append(confidence, confidences(rule, left));
    for (const double value : left.scores) score.push_back(static_cast<float>(value));
  }
  session.finish_exits();

  const int64_t n = options.steps, text_d = model.config().text.d;
  const auto ints = [&](const char* name, const std::vector<int64_t>& values) {
    results.push_back(make_view(std::string("early.") + name, {std::ssize(values)},
                                std::span<const int64_t>(values)));
  };
  const auto floats = [&](const char* name, Shape shape, const std::vector<float>& values) {
    results.push_back(
        make_view(std::string("early.") + name, std::move(shape), std::span<const float>(values)));
  };
  ints("tokens", tokens);
  ints("exit_loop", loops);
  floats("exit_logits", {n, std::ssize(next)}, logits);
  floats("exit_hidden", {n, text_d}, hidden);
  floats("confidence", {n, rule.loops()}, confidence);
  floats("score", {n, rule.loops()}, score);

  std::vector<float> k, v;
  const std::vector<KvEntries> cache = kv_by_depth(model, plans->decode, session.sequence());
  const int64_t length = session.length();
  for (const KvEntries& depth : cache) {
    append(k, with_holes(depth, depth.k, length));
    append(v, with_holes(depth, depth.v, length));
  }
  Shape shape = cache.at(0).shape;
  shape[1] = length;
  shape.insert(shape.begin(), std::ssize(cache));
  floats("k", shape, k);
  floats("v", shape, v);
}

}  // namespace reprise
