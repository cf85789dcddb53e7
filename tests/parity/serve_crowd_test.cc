// Many requests: what they may take of memory, and how long they may have to wait. Counted are pages
// and sweeps, never times.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "support/golden.h"
#include "support/schedules.h"
#include "support/serve_requests.h"

namespace reprise::test {
namespace {

Asked text_of(int64_t first, int64_t size, int64_t tokens) {
  Asked asked;
  for (int64_t i = 0; i < size; ++i)
    asked.prompt.ids.push_back(4 + static_cast<int32_t>((first + i * 7) % 40));
  asked.rules.max_tokens = tokens;
  return asked;
}

// Under a budget that large requests don't always find room in: they are passed over, but not too
// often. `grow`: requests that run find no room either, and lose what they have. Else there are
// priorities: who is more important passes others over, too.
void run_crowd(bool grow) {
  constexpr size_t kRequests = 1064;
  const Kind kind = kinds()[0];
  const auto be = make_backend_of({"cpu", ""}, 1);
  const auto model = make_model(kind, *be);
  const int64_t page = kv_bytes(model->kv_spec(), std::ssize(model->decode_plan().kv_rows), 1);
  SchedulerOptions options;
  options.prompt_rows =
      1 << 20;  // a prompt's first token comes in the sweep that it is admitted in
  options.admission.most_running = 64;
  options.admission.kv_budget = 80 * page;
  options.admission.reserve_ahead = grow ? 4 : 1000;
  options.admission.passed_over = 12;
  PlanStore plans(*model);
  Scheduler scheduler(*model, options);
  std::vector<Asked> asked;
  std::vector<Given> given(kRequests);
  std::vector<int64_t> begun(kRequests, -1);  // the sweep of the first token
  int64_t sweep = 0;
  Random random(5);
  for (size_t i = 0; i < kRequests; ++i) {
    // One of 25 takes six pages, one of 9 grows into a second one, the others take one.
    const bool large = random.chance(25), grows = random.chance(9);
    asked.push_back(text_of(static_cast<int64_t>(i),
                            large   ? 180
                            : grows ? 26
                                    : 3 + i % 9,
                            grows ? 12 : 2 + static_cast<int64_t>(i % 5)));
    asked.back().priority = !grow && random.chance(10) ? 1 : 0;
    ServeRequest request = serve_request(asked[i], *model, plans, given[i]);
    request.on_event = [&, i, receive = request.on_event](const ServeEvent& event) {
      if (begun[i] < 0) begun[i] = sweep;
      receive(event);
    };
    scheduler.submit(std::move(request));
  }
  for (; scheduler.sweep(); ++sweep) {
    const KvBudget::Usage usage = scheduler.usage();
    ASSERT_LE(usage.used + usage.reserved, usage.limit);
    if (sweep % 8 == 0) {
      ASSERT_NO_THROW(scheduler.check());
    }
  }
  EXPECT_EQ(scheduler.stats().most_running, 64);
  EXPECT_EQ(scheduler.stats().preemptions > 0, grow);
  EXPECT_EQ(scheduler.usage().used, 0);
  // Those that began before it; with priorities nobody loses what it has, so nobody begins twice.
  int64_t most = 0;
  for (size_t i = 0; i < kRequests; ++i) {
    const int64_t passed = std::count_if(begun.begin() + static_cast<int64_t>(i), begun.end(),
                                         [&](int64_t other) { return other < begun[i]; });
    ASSERT_LE(passed, options.admission.passed_over) << "request " << i;
    most = std::max(most, passed);
  }
  EXPECT_GT(most, 0);
  const auto alone_be = make_backend_of({"cpu", ""}, 1);
  const auto alone_model = make_model(kind, *alone_be);
  for (size_t i = 0; i < kRequests; ++i) {
    SCOPED_TRACE(fmt::format("request {}", i));
    ASSERT_TRUE(given[i].end.has_value());
    expect_same(alone(*alone_model, asked[i]), given[i], true);
  }
}

// 64 run and 1,000 wait.
TEST(ServeCrowd, NobodyStarvesAndTheBudgetHolds) {
  for (const bool grow : {false, true}) run_crowd(grow);
}

// A long prompt arrives: no sweep starts more of it than it may, and tokens of the others are as many
// sweeps apart as before.
TEST(ServeCrowd, ALongPromptDelaysNobodysTokens) {
  constexpr int64_t kLong = 800, kRows = 16;
  constexpr size_t kOthers = 8;
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    const auto be = make_backend_of({"cpu", ""}, 1);
    const auto model = make_model(kind, *be);
    if (model->prefill_plan().whole_prompts()) continue;  // it is one piece
    SchedulerOptions options;
    options.prompt_rows = kRows;
    PlanStore plans(*model);
    Scheduler scheduler(*model, options);
    std::vector<Given> given(kOthers + 1);
    std::vector<int64_t> last(kOthers, -1);
    int64_t sweep = 0, longest = 0, calm = 0;
    for (size_t i = 0; i < kOthers; ++i) {
      ServeRequest request =
          serve_request(text_of(static_cast<int64_t>(i), 5, 120), *model, plans, given[i]);
      request.on_event = [&, i, receive = request.on_event](const ServeEvent& event) {
        if (event.kind == ServeEvent::Kind::Token && last[i] >= 0)
          longest = std::max(longest, sweep - last[i]);
        last[i] = sweep;
        receive(event);
      };
      scheduler.submit(std::move(request));
    }
    const Asked long_one = text_of(3, kLong, 2);
    bool arrived = false;
    int64_t arrival = 0, first = 0;
    for (int64_t tokens = 0; scheduler.sweep(); ++sweep) {
      const int64_t started = scheduler.stats().prompt_tokens - tokens;
      tokens += started;
      ASSERT_LE(started, kRows);
      if (first == 0 && !given.back().tokens.empty()) first = sweep;
      if (!arrived && given[0].tokens.size() > 5) {
        calm = longest;
        ASSERT_LE(calm, kind.loops);
        scheduler.submit(serve_request(long_one, *model, plans, given.back()));
        arrived = true;
        arrival = sweep;
      }
    }
    EXPECT_EQ(longest, calm);
    EXPECT_LE(first - arrival, kLong / kRows + kind.loops);
    // It was there while the others had tokens to come.
    EXPECT_GT(last[0], first);
    expect_same(alone(*model, long_one), given.back(), true);
  }
}

}  // namespace
}  // namespace reprise::test
