// Single cases of the scheduler: errors, limits, what is run again, other threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <thread>

#include "support/error_of.h"
#include "support/golden.h"
#include "support/schedules.h"
#include "support/serve_requests.h"

namespace reprise::test {
namespace {

class ServeErrors : public testing::Test {
 protected:
  const std::unique_ptr<Backend> be_ = make_backend_of({"cpu", "scalar"}, 1);
  const Kind kind_ = kinds()[3];  // loops
  const std::unique_ptr<Model> model_ = make_model(kind_, *be_);
  PlanStore plans_{*model_};
  std::map<int, Given> given_;

  Asked asked(int64_t prompt, int64_t tokens) {
    Asked asked;
    for (int64_t i = 0; i < prompt; ++i)
      asked.prompt.ids.push_back(4 + static_cast<int32_t>((i * 7) % 40));
    asked.rules.max_tokens = tokens;
    return asked;
  }
  RequestId submit(Scheduler& scheduler, int i, const Asked& asked) {
    return scheduler.submit(serve_request(asked, *model_, plans_, given_[i]));
  }
};

// An id that no embedding has beside others that are in order.
TEST_F(ServeErrors, EndOneRequestAlone) {
  Scheduler scheduler(*model_);
  Asked bad = asked(9, 5);
  bad.prompt.ids[4] = 4711;
  submit(scheduler, 0, asked(9, 8));
  submit(scheduler, 1, bad);
  submit(scheduler, 2, asked(12, 8));
  scheduler.run_until_idle();
  EXPECT_NE(given_[1].error.find("4711"), std::string::npos) << given_[1].error;
  expect_same(alone(*model_, asked(9, 8)), given_[0], true);
  expect_same(alone(*model_, asked(12, 8)), given_[2], true);
  EXPECT_EQ(scheduler.usage().used, 0);
}

// What a rule asks for that the plan doesn't have is known before anything runs.
TEST_F(ServeErrors, AnExitThatSharesWhatNoLoopHasIsNotTaken) {
  for (const Kind& kind : kinds()) {
    const auto model = make_model(kind, *be_);
    if (model->decode_plan().loops() < 2) continue;
    Asked one = asked(9, 3);
    one.exit = {.kind = ExitKind::Depth, .threshold = 1, .kv = ExitKv::Share};
    PlanStore plans(*model);
    Scheduler scheduler(*model);
    Given given;
    if (kind.shares) {
      scheduler.submit(serve_request(one, *model, plans, given));
      scheduler.run_until_idle();
      expect_same(alone(*model, one), given, true);
    } else {
      const std::string error =
          error_of([&] { scheduler.submit(serve_request(one, *model, plans, given)); });
      EXPECT_NE(error.find("KV 'share'"), std::string::npos) << error;
    }
  }
}

// NaN in a picture's rows stays with its request.
TEST_F(ServeErrors, NaNEndsOneRequestAlone) {
  const Kind trol = kinds().back();
  const auto model = make_model(trol, *be_);
  PlanStore plans(*model);
  Asked good = asked(9, 6), bad = good;
  for (Asked* one : {&good, &bad}) {
    one->prompt.is_image.assign(9, 0);
    one->prompt.is_image[2] = 1;
    one->prompt.ids[2] = static_cast<int32_t>(model->config().image_token);
    one->image_rows.assign(static_cast<size_t>(model->config().text.d), 0.5f);
  }
  bad.image_rows[3] = NAN;
  Scheduler scheduler(*model);
  for (int i = 0; i < 3; ++i)
    scheduler.submit(serve_request(i == 1 ? bad : good, *model, plans, given_[i]));
  scheduler.run_until_idle();
  EXPECT_NE(given_[1].error.find("NaN"), std::string::npos) << given_[1].error;
  EXPECT_TRUE(given_[1].tokens.empty());
  const Given expected = alone(*model, good);
  expect_same(expected, given_[0], true);
  expect_same(expected, given_[2], true);
}

// A visit that fails for one of several: the scheme has no such injection.
TEST_F(ServeErrors, AFailedVisitIsFoundOutAndOthersGoOn) {
  auto broken = std::make_shared<Plans>(*plans_.of({}));
  broken->decode.registers = 1;
  broken->decode.steps.insert(broken->decode.steps.begin(), {Save{0}, ""});
  // Between two visits: it is met in company.
  broken->decode.steps.insert(broken->decode.steps.begin() + 2, {Inject{0, 0}, ""});
  Scheduler scheduler(*model_);
  submit(scheduler, 0, asked(9, 8));
  ServeRequest request = serve_request(asked(9, 8), *model_, plans_, given_[1]);
  request.plans = broken;
  scheduler.submit(std::move(request));
  submit(scheduler, 2, asked(3, 12));
  scheduler.run_until_idle();
  EXPECT_NE(given_[1].error, "");
  EXPECT_EQ(given_[1].tokens.size(), 1U);  // the prompt's plan was in order
  expect_same(alone(*model_, asked(9, 8)), given_[0], true);
  expect_same(alone(*model_, asked(3, 12)), given_[2], true);
  EXPECT_EQ(scheduler.usage().used, 0);
}

TEST_F(ServeErrors, NoKvLeft) {
  SchedulerOptions options;
  const auto rows = std::ssize(model_->decode_plan().kv_rows);
  options.admission.kv_budget = kv_bytes(model_->kv_spec(), rows, 64);
  Scheduler scheduler(*model_, options);
  EXPECT_THROW(submit(scheduler, 0, asked(64, 8)), Error);
  submit(scheduler, 1, asked(60, 0));  // no limit: it grows until there is no room
  submit(scheduler, 2, asked(20, 30));
  scheduler.run_until_idle();
  EXPECT_NE(given_[1].error.find("no KV left"), std::string::npos) << given_[1].error;
  EXPECT_EQ(given_[1].tokens.size(), 5U);  // 4 of them were run, the fifth has no room
  expect_same(alone(*model_, asked(20, 30)), given_[2], true);
}

TEST_F(ServeErrors, BadRequestsAreRefused) {
  Scheduler scheduler(*model_);
  EXPECT_THROW(submit(scheduler, 0, asked(0, 8)), Error);
  Asked exit = asked(3, 3);
  exit.exit = {.kind = ExitKind::Depth, .threshold = 9};
  EXPECT_THROW(submit(scheduler, 0, exit), Error);
  SchedulerOptions options;
  options.prompt_rows = 0;
  EXPECT_THROW(Scheduler(*model_, options), Error);
  EXPECT_THROW(parse_schedule("breadthwise"), Error);
}

TEST_F(ServeErrors, DeadlinesAndCancellationEndWithinASweep) {
  Scheduler scheduler(*model_);
  const RequestId first = submit(scheduler, 0, asked(9, 0));
  ServeRequest late = serve_request(asked(9, 0), *model_, plans_, given_[1]);
  late.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  scheduler.submit(std::move(late));
  scheduler.sweep();
  EXPECT_EQ(given_[1].end, StopReason::Deadline);
  for (int i = 0; i < 20; ++i) scheduler.sweep();
  EXPECT_FALSE(given_[0].tokens.empty());
  const size_t had = given_[0].tokens.size();
  scheduler.cancel(first);
  EXPECT_FALSE(scheduler.sweep());
  EXPECT_EQ(given_[0].end, StopReason::Cancelled);
  EXPECT_EQ(given_[0].tokens.size(), had);
}

// No request is passed over more often than the option says, whatever its size and priority.
TEST_F(ServeErrors, NobodyIsPassedOverForEver) {
  SchedulerOptions options;
  const auto rows = std::ssize(model_->decode_plan().kv_rows);
  options.admission.kv_budget = kv_bytes(model_->kv_spec(), rows, 128);
  options.admission.passed_over = 3;
  options.admission.reserve_ahead = 1;
  Scheduler scheduler(*model_, options);
  std::vector<int> began;  // in the order of their first tokens
  const auto ask = [&](int i, const Asked& what, int priority) {
    ServeRequest request = serve_request(what, *model_, plans_, given_[i]);
    request.priority = priority;
    request.on_event = [&, i](const ServeEvent& event) {
      if (given_[i].tokens.empty()) began.push_back(i);
      receive(given_[i], event);
    };
    scheduler.submit(std::move(request));
  };
  ask(0, asked(20, 4), 0);
  scheduler.sweep();
  ask(1, asked(100, 4), 0);  // fits only when nearly nobody is there
  for (int i = 2; i < 12; ++i) ask(i, asked(20, 6), 1);
  scheduler.run_until_idle();
  const auto at = std::find(began.begin(), began.end(), 1) - began.begin();
  EXPECT_LE(at, 4);  // request 0 and three that came later
  EXPECT_EQ(began.size(), 12U);
}

// A token that leaves writes the rows of deeper loops at once where entries are shared: tokens that
// are run again must not overtake each other there.
TEST_F(ServeErrors, SharedEntriesOfTokensThatAreRunAgain) {
  Asked what = asked(5, 40);
  what.rules.sampler = {.temperature = 1, .seed = 3};
  what.exit = {.kind = ExitKind::Confidence, .kv = ExitKv::Share};
  Given expected;
  const auto changes = [&] {  // how often one leaves first that follows one that leaves last
    int n = 0;
    for (size_t t = 1; t < expected.loops.size(); ++t)
      n += expected.loops[t] == 0 && expected.loops[t - 1] == kind_.loops - 1;
    return n;
  };
  for (what.exit.threshold = 0.05; changes() < 3; what.exit.threshold += 0.02) {
    ASSERT_LT(what.exit.threshold, 0.9);
    expected = alone(*model_, what);
  }
  what.exit.threshold -= 0.02;  // that of the last round
  Scheduler scheduler(*model_);
  const RequestId id = submit(scheduler, 0, what);
  for (int sweeps = 0; scheduler.sweep(); ++sweeps) {
    if (sweeps == 60 || sweeps == 75) scheduler.preempt(id);
    ASSERT_LT(sweeps, 2000);
  }
  EXPECT_GT(scheduler.stats().preemptions, 0);
  expect_same(expected, given_[0], true);
}

// Tokens that see the deepest entries of others are run again one by one: together they would see of
// each other what was there in the same loop.
TEST_F(ServeErrors, DeepestEntriesOfTokensThatAreRunAgain) {
  const std::vector<Kind> all = kinds();
  const auto huginn =
      std::ranges::find_if(all, [](const Kind& kind) { return kind.name == "huginn"; });
  const auto model = make_model(*huginn, *be_);
  PlanStore plans(*model);
  Asked what = asked(5, 40);
  what.options = {{"cache_lookup_strategy", std::string("always-last-m4")}};
  what.rules.sampler = {.temperature = 1, .seed = 3};
  what.exit = {.kind = ExitKind::Confidence, .kv = ExitKv::Missing};
  Given expected;
  const auto together = [&] {  // how often two leave at one loop that others didn't come to
    int n = 0;
    for (size_t t = 3; t < expected.loops.size(); ++t)
      n += expected.loops[t] == expected.loops[t - 1] &&
           std::ranges::any_of(std::span(expected.loops).subspan(1, t - 2),
                               [&](int loop) { return loop < expected.loops[t]; });
    return n;
  };
  for (double threshold = 0.02; together() < 6; threshold += 0.01) {
    ASSERT_LT(threshold, 0.9);
    what.exit.threshold = threshold;
    expected = alone(*model, what);
  }
  Scheduler scheduler(*model);
  const RequestId id = scheduler.submit(serve_request(what, *model, plans, given_[0]));
  for (int sweeps = 0; scheduler.sweep(); ++sweeps) {
    if (given_[0].tokens.size() == 25 + static_cast<size_t>(scheduler.stats().preemptions) * 4)
      scheduler.preempt(id);
    ASSERT_LT(sweeps, 4000);
  }
  EXPECT_GT(scheduler.stats().preemptions, 1);
  expect_same(expected, given_[0], true);
}

// Submitted and cancelled by other threads while one runs.
TEST_F(ServeErrors, OtherThreadsSubmit) {
  Scheduler scheduler(*model_);
  for (int i = 0; i < 8; ++i) given_[i];
  std::vector<std::shared_ptr<const Plans>> made = {plans_.of({})};
  std::thread engine([&] { scheduler.run(); });
  std::atomic<int> left = 8;
  std::vector<std::thread> clients;
  for (int c = 0; c < 2; ++c)
    clients.emplace_back([&, c] {
      for (int i = c; i < 8; i += 2) {
        ServeRequest request;
        request.prompt = asked(3 + i, 6).prompt;
        request.rules.max_tokens = 6;
        request.plans = made[0];
        request.on_event = [&, i](const ServeEvent& event) {
          receive(given_[i], event);
          if (event.kind != ServeEvent::Kind::Token && --left == 0) scheduler.stop();
        };
        scheduler.submit(std::move(request));
      }
    });
  for (std::thread& client : clients) client.join();
  engine.join();
  for (int i = 0; i < 8; ++i) expect_same(alone(*model_, asked(3 + i, 6)), given_[i], true);
}

}  // namespace
}  // namespace reprise::test
