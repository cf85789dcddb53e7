#include "support/serve_requests.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/schedules.h"

namespace reprise::test {

TokenPrompt prompt_of(const Asked& asked, Model& model) {
  TokenPrompt prompt = asked.prompt;
  const int64_t d = model.config().text.d;
  if (!asked.image_rows.empty())
    prompt.image_rows = model.backend().from_host(
        asked.image_rows, {static_cast<int64_t>(asked.image_rows.size()) / d, d});
  return prompt;
}

Given alone(Model& model, const Asked& asked) {
  const auto plans = make_plans(model, asked.options);
  Given given;
  Session session(model, plans, 512, asked.exit);
  session.set_initial(asked.initial ? asked.initial
                                    : std::make_shared<const InitialStates>(
                                          InitialStates{.seed = asked.rules.sampler.seed}));
  const TokenPrompt prompt = prompt_of(asked, model);
  Answer answer(asked.rules, prompt.ids);
  std::vector<float> logits = session.prefill(prompt);
  int loop = session.prompt_loops().empty() ? std::max(plans->decode.loops() - 1, 0)
                                            : session.prompt_loops().back();
  while (true) {
    const AnswerEvent event = answer.push(logits);
    given.logits.push_back(logits);
    given.tokens.push_back(event.token);
    given.loops.push_back(loop);
    given.end = event.end;
    if (event.end) return given;
    if (asked.exit.active()) {
      LoopExit exit = session.decode_exit(event.token);
      logits = std::move(exit.logits);
      loop = exit.loop;
    } else {
      logits = session.decode(event.token);
    }
  }
}

void receive(Given& given, const ServeEvent& event) {
  EXPECT_FALSE(given.end || !given.error.empty()) << "an event behind the end";
  if (event.kind == ServeEvent::Kind::Token) {
    given.tokens.push_back(event.token);
    given.logits.emplace_back(event.logits.begin(), event.logits.end());
    given.loops.push_back(event.loop);
  } else if (event.kind == ServeEvent::Kind::End) {
    given.end = event.reason;
  } else {
    given.error = event.error;
  }
}

ServeRequest serve_request(const Asked& asked, Model& model, PlanStore& plans, Given& given) {
  ServeRequest request;
  request.prompt = prompt_of(asked, model);
  request.rules = asked.rules;
  request.exit = asked.exit;
  request.initial = asked.initial;
  request.plans = plans.of(asked.options);
  request.priority = asked.priority;
  request.on_event = [&given](const ServeEvent& event) { receive(given, event); };
  return request;
}

void expect_same(const Given& expected, const Given& found, bool whole) {
  EXPECT_EQ(found.error, "");
  const size_t n = found.tokens.size();
  ASSERT_LE(n, expected.tokens.size());
  if (whole) {
    ASSERT_EQ(n, expected.tokens.size());
    EXPECT_EQ(found.end, expected.end);
  }
  for (size_t t = 0; t < n; ++t) {
    EXPECT_TRUE(same_bits(expected.logits[t], found.logits[t])) << "token " << t;
    EXPECT_EQ(expected.tokens[t], found.tokens[t]) << "token " << t;
    EXPECT_EQ(expected.loops[t], found.loops[t]) << "token " << t;
  }
}

}  // namespace reprise::test
