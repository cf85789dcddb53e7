// The scheduler under random arrivals, chunk sizes, exits, priorities, cancellations and KV budgets
// so tight that requests lose their KV and are run again: every request's tokens, the logits they
// were chosen from and the loops it left at are those it gets alone (Session and Answer), to the bit
// on the cpu backend; KV rows and the budget are looked at after every sweep.
//
// REPRISE_SCHEDULES sets the number of schedules per model (default: a few, for CI).
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "engine/serve/scheduler.h"
#include "support/golden.h"
#include "support/schedules.h"

namespace reprise::test {
namespace {

struct Asked {
  TokenPrompt prompt;
  std::vector<float> image_rows;
  PlanOptions options;
  AnswerRules rules;
  ExitConfig exit;
  std::shared_ptr<const InitialStates> initial;  // null: the sampler's seed
  int priority = 0;
};

struct Given {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<int> loops;
  std::optional<StopReason> end;
  std::string error;
};

ExitConfig random_exit(const Kind& kind, int loops, Random& random) {
  if (loops < 2 || random.chance(4)) return {};
  const auto most = static_cast<uint64_t>(loops);
  ExitConfig exit;
  const double any = static_cast<double>(random.below(1000)) / 1000;
  switch (random.below(11)) {
    case 0:
      exit = {.kind = ExitKind::Confidence, .threshold = 0.02 + any * 0.3};
      break;
    case 1:
      exit = {.kind = ExitKind::Entropy, .threshold = 2 + any * 2};
      break;
    case 2:
      exit = {.kind = ExitKind::Similarity, .threshold = any};
      break;
    case 3:
      exit = {.kind = ExitKind::Step, .threshold = static_cast<double>(random.below(most))};
      break;
    case 4:
      exit = {.kind = ExitKind::Kl, .threshold = any * 0.2};
      break;
    case 5:
      exit = {.kind = ExitKind::MinPKl, .threshold = any * 0.2};
      break;
    case 6:
      exit = {.kind = ExitKind::EntropyDiff, .threshold = any * 0.2};
      break;
    case 7:
      exit = {.kind = ExitKind::ArgmaxStability,
              .threshold = 1.0 + static_cast<double>(random.below(2))};
      break;
    case 8:
      exit = {.kind = ExitKind::LatentDiff, .threshold = any};
      break;
    case 9:
      exit = {.kind = ExitKind::Cosine, .threshold = any * 0.4};
      break;
    default:
      exit = {.kind = ExitKind::Depth, .threshold = 1.0 + static_cast<double>(random.below(most))};
  }
  exit.kv = random_policy(kind, random);
  exit.prompts = random.chance(3);
  return exit;
}

Asked make_asked(const Model& model, const Kind& kind, Random& random) {
  Asked asked;
  asked.options = kind.plans[random.below(kind.plans.size())];
  const auto size = static_cast<size_t>(1 + random.below(random.chance(3) ? 60 : 9));
  for (size_t i = 0; i < size; ++i)
    asked.prompt.ids.push_back(4 + static_cast<int32_t>(random.below(42)));
  if (kind.config.contains("vision_config") && size > 5 && random.chance(2)) {
    const size_t begin = random.below(3), count = 1 + random.below(size - 4);
    asked.prompt.is_image.assign(size, 0);
    for (size_t i = begin; i < begin + count; ++i) {
      asked.prompt.ids[i] = static_cast<int32_t>(model.config().image_token);
      asked.prompt.is_image[i] = 1;
    }
    for (int64_t i = 0; i < static_cast<int64_t>(count) * model.config().text.d; ++i)
      asked.image_rows.push_back(static_cast<float>(random.bits.normal(1000000 + random.at++)));
  }
  asked.exit = random_exit(kind, model.decode_plan(asked.options).loops(), random);
  if (asked.exit.active() && random.chance(4)) {
    asked.exit.mode = ExitMode::Select;
    if (!model.exit_problem(asked.exit, model.decode_plan(asked.options)).empty())
      asked.exit.mode = ExitMode::Skip;
  }
  if (random.chance(2))
    asked.initial =
        std::make_shared<const InitialStates>(InitialStates{.seed = random.below(1000)});
  asked.rules.max_tokens = 1 + static_cast<int64_t>(random.below(random.chance(2) ? 50 : 10));
  if (random.chance(2))
    asked.rules.sampler = {.temperature = 0.9f, .top_k = 20, .seed = random.below(100)};
  if (random.chance(3)) asked.rules.ends = {static_cast<int32_t>(random.below(46))};
  asked.priority = static_cast<int>(random.below(3));
  return asked;
}

TokenPrompt prompt_of(const Asked& asked, Model& model) {
  TokenPrompt prompt = asked.prompt;
  const int64_t d = model.config().text.d;
  if (!asked.image_rows.empty())
    prompt.image_rows = model.backend().from_host(
        asked.image_rows, {static_cast<int64_t>(asked.image_rows.size()) / d, d});
  return prompt;
}

// Throws what the request runs into.
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

// The plans of one choice of options are one object: only then do requests share cohorts.
class PlanStore {
 public:
  explicit PlanStore(const Model& model) : model_(model) {}
  std::shared_ptr<const Plans> of(const PlanOptions& options) {
    for (const auto& [known, plans] : list_)
      if (known == options) return plans;
    list_.emplace_back(options, make_plans(model_, options));
    return list_.back().second;
  }

 private:
  const Model& model_;
  std::vector<std::pair<PlanOptions, std::shared_ptr<const Plans>>> list_;
};

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

// `whole`: false for one that was ended from outside: what it had until then.
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

SchedulerOptions random_options(Random& random, int64_t tightest) {
  SchedulerOptions options;
  options.prompt_rows = 1 + static_cast<int64_t>(random.below(random.chance(3) ? 80 : 8));
  options.schedule = random.chance(3)
                         ? std::array{Schedule::Sequence, Schedule::Cohort}[random.below(2)]
                         : Schedule::Depthwise;
  options.admission.most_running = 1 + static_cast<int64_t>(random.below(8));
  options.admission.reserve_ahead = 1 + static_cast<int64_t>(random.below(12));
  options.admission.passed_over = static_cast<int64_t>(random.below(4));
  if (random.chance(2))
    options.admission.kv_budget = tightest * (100 + static_cast<int64_t>(random.below(80))) / 100;
  return options;
}

struct Param {
  Kind kind;
  Machine machine;
};
void PrintTo(const Param& param, std::ostream* out) { *out << param.kind.name; }
class Serve : public testing::TestWithParam<Param> {};

TEST_P(Serve, TokensAreThoseOfEachAlone) {
  const auto& [kind, machine] = GetParam();
  const bool emulated = machine.isa.ends_with("simde");
  const auto one = make_backend_of(machine, 1);
  const auto alone_model = make_model(kind, *one);
  int64_t preemptions = 0, early = 0, shared = 0;
  for (uint64_t seed = 1; seed <= (emulated ? 2 : schedules()); ++seed) {
    SCOPED_TRACE(fmt::format("schedule {}", seed));
    Random random(1000 + seed);
    const auto be = make_backend_of(machine, 1 + static_cast<int>(random.below(2)));
    const auto model = make_model(kind, *be);
    std::vector<Asked> asked;
    std::vector<Given> expected;
    int64_t tightest = 0;
    for (int i = 0; i < 6; ++i) {
      asked.push_back(make_asked(*model, kind, random));
      expected.push_back(alone(*alone_model, asked.back()));
      const Plans plans{model->prefill_plan(asked.back().options),
                        model->decode_plan(asked.back().options)};
      const int64_t rows =
          std::max(std::ssize(plans.prefill.kv_rows), std::ssize(plans.decode.kv_rows));
      tightest =
          std::max(tightest, kv_bytes(model->kv_spec(), rows,
                                      asked.back().prompt.size() + asked.back().rules.max_tokens));
    }
    PlanStore plans(*model);
    Scheduler scheduler(*model, random_options(random, tightest));
    std::vector<Given> found(asked.size());
    std::vector<RequestId> ids(asked.size());
    std::vector<bool> cancelled(asked.size());
    size_t submitted = 0;
    while (true) {
      while (submitted < asked.size() && !random.chance(3)) {
        ids[submitted] =
            scheduler.submit(serve_request(asked[submitted], *model, plans, found[submitted]));
        ++submitted;
      }
      if (submitted > 0 && random.chance(20)) {
        const size_t i = random.below(submitted);
        scheduler.cancel(ids[i]);
        cancelled[i] = true;
      }
      if (submitted > 0 && random.chance(12)) scheduler.preempt(ids[random.below(submitted)]);
      const bool busy = scheduler.sweep();
      ASSERT_NO_THROW(scheduler.check());
      if (!busy && submitted == asked.size()) break;
    }
    EXPECT_EQ(scheduler.usage().used, 0);
    EXPECT_EQ(scheduler.usage().reserved, 0);
    for (size_t i = 0; i < asked.size(); ++i) {
      SCOPED_TRACE(fmt::format("request {}", i));
      EXPECT_TRUE(found[i].end.has_value());
      expect_same(expected[i], found[i], found[i].end != StopReason::Cancelled);
      if (found[i].end == StopReason::Cancelled) {
        EXPECT_TRUE(cancelled[i]);
      }
      for (const int loop : found[i].loops) early += loop + 1 < kind.loops;
    }
    preemptions += scheduler.stats().preemptions;
    shared += scheduler.stats().visit_rows > scheduler.stats().visits ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(shared, 0);
  if (!emulated) {
    EXPECT_GT(preemptions, 0);
  }
  if (kind.loops > 1) {
    EXPECT_GT(early, 0);
  }
}

std::vector<Param> params() {
  std::vector<Param> list;
  for (const Kind& kind : kinds())
    for (const Machine& machine : cpu_machines()) list.push_back({kind, machine});
  return list;
}

INSTANTIATE_TEST_SUITE_P(All, Serve, testing::ValuesIn(params()), [](const auto& info) {
  std::string name = info.param.kind.name + "_" + info.param.machine.name();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

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
