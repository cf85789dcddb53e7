// The scheduler under random arrivals, chunk sizes, exits, priorities, cancellations and KV budgets
// so tight that requests lose their KV and are run again, with prompts that begin alike (pictures
// included) and a prefix tree that has room for all, for some or for none of them: every request's
// tokens, the logits they were chosen from and the loops it left at are those it gets alone (Session
// and Answer), to the bit on the cpu backend; KV rows and the budget are looked at after every sweep.
//
// REPRISE_SCHEDULES sets the number of schedules per model (default: a few, for CI).
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/schedules.h"
#include "support/serve_requests.h"

namespace reprise::test {
namespace {

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

void add_text(Asked& asked, uint64_t count, Random& random) {
  TokenPrompt& prompt = asked.prompt;
  for (uint64_t i = 0; i < count; ++i)
    prompt.ids.push_back(4 + static_cast<int32_t>(random.below(42)));
  if (!prompt.is_image.empty()) prompt.is_image.resize(prompt.ids.size());
}

// One of two pictures, or one that isn't known again.
void add_picture(Asked& asked, int64_t count, const Model& model, Random& random) {
  TokenPrompt& prompt = asked.prompt;
  const bool known = !random.chance(4);
  const uint64_t seed = known ? random.below(2) : 100 + random.at++;
  const int64_t begin = prompt.size();
  prompt.ids.insert(prompt.ids.end(), static_cast<size_t>(count),
                    static_cast<int32_t>(model.config().image_token));
  prompt.is_image.resize(static_cast<size_t>(begin));
  prompt.is_image.resize(prompt.ids.size(), 1);
  if (known)
    prompt.pictures.push_back({{.sha256 = {static_cast<uint8_t>(1 + seed)}}, begin, prompt.size()});
  const Philox values(seed, 5);
  for (int64_t i = 0; i < count * model.config().text.d; ++i)
    asked.image_rows.push_back(static_cast<float>(values.normal(static_cast<uint64_t>(i))));
}

// The first tokens of a prompt, without a part of a picture that is known.
void cut_prompt(Asked& asked, int64_t size, int64_t d) {
  TokenPrompt& prompt = asked.prompt;
  for (const PromptPicture& picture : prompt.pictures)
    if (picture.begin < size && size < picture.end) size = picture.begin;
  std::erase_if(prompt.pictures, [&](const auto& picture) { return picture.begin >= size; });
  prompt.ids.resize(static_cast<size_t>(size));
  if (prompt.is_image.empty()) return;
  prompt.is_image.resize(static_cast<size_t>(size));
  const int64_t images = std::count(prompt.is_image.begin(), prompt.is_image.end(), 1);
  asked.image_rows.resize(static_cast<size_t>(images * d));
}

Asked make_asked(const Model& model, const Kind& kind, Random& random,
                 std::span<const Asked> earlier, std::span<const Given> answers) {
  Asked asked;
  asked.options = kind.plans[random.below(kind.plans.size())];
  const bool pictures = kind.config.contains("vision_config");
  const Asked* like = nullptr;
  if (!earlier.empty() && !random.chance(3)) {  // it begins as another one does, or is the same
    like = &earlier[random.below(earlier.size())];
    asked.prompt = like->prompt;
    asked.image_rows = like->image_rows;
    if (!random.chance(4)) asked.options = like->options;
    if (!random.chance(3)) {
      const auto size = static_cast<uint64_t>(like->prompt.size());
      cut_prompt(asked, static_cast<int64_t>(1 + random.below(size)), model.config().text.d);
      if (pictures && random.chance(2))
        add_picture(asked, 1 + static_cast<int64_t>(random.below(3)), model, random);
      add_text(asked, 1 + random.below(random.chance(4) ? 30 : 5), random);
    } else if (random.chance(2)) {  // its next turn
      for (const int32_t id : answers[static_cast<size_t>(like - earlier.data())].tokens)
        if (id != model.config().image_token) asked.prompt.ids.push_back(id);
      add_text(asked, 1 + random.below(3), random);
    }
  } else {
    const uint64_t size = 1 + random.below(random.chance(3) ? 60 : 9);
    if (pictures && size > 5 && random.chance(2)) {
      const uint64_t begin = random.below(3), count = 1 + random.below(size - 4);
      add_text(asked, begin, random);
      add_picture(asked, static_cast<int64_t>(count), model, random);
      add_text(asked, size - begin - count, random);
    } else {
      add_text(asked, size, random);
    }
  }
  asked.exit = random_exit(kind, model.decode_plan(asked.options).loops(), random);
  if (asked.exit.active() && model.scheme().has_exit_gate() && random.chance(2)) {
    const ExitKind gated[] = {ExitKind::Gate, ExitKind::Cdf, ExitKind::Weighted};
    asked.exit.kind = gated[random.below(3)];
    asked.exit.threshold = static_cast<double>(random.below(1000)) / 1000;
    if (asked.exit.kind == ExitKind::Weighted)
      asked.exit = {.kind = ExitKind::Weighted, .mode = ExitMode::Select};
  }
  if (asked.exit.active() && asked.exit.kind != ExitKind::Weighted && random.chance(4)) {
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
  if (like && !random.chance(3)) {
    if (asked.options == like->options) asked.exit = like->exit;
    asked.initial = like->initial;
    if (random.chance(2)) asked.rules.sampler.seed = like->rules.sampler.seed;
  }
  return asked;
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
  if (!random.chance(4)) {
    options.prefixes.bytes = tightest * static_cast<int64_t>(1 + random.below(300)) / 100;
    options.prefixes.least_tokens = 1 + static_cast<int64_t>(random.below(6));
    options.prefixes.answers = random.chance(2);
  }
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
  int64_t preemptions = 0, early = 0, shared = 0, prefixes = 0;
  for (uint64_t seed = 1; seed <= (emulated ? 2 : schedules()); ++seed) {
    SCOPED_TRACE(fmt::format("schedule {}", seed));
    Random random(1000 + seed);
    const auto be = make_backend_of(machine, 1 + static_cast<int>(random.below(2)));
    const auto model = make_model(kind, *be);
    std::vector<Asked> asked;
    std::vector<Given> expected;
    int64_t tightest = 0;
    for (int i = 0; i < 6; ++i) {
      asked.push_back(make_asked(*model, kind, random, asked, expected));
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
    const SchedulerOptions options = random_options(random, tightest);
    Scheduler scheduler(*model, options);
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
      ASSERT_LE(scheduler.prefixes().bytes(), options.prefixes.bytes);
      if (!busy && submitted == asked.size()) break;
    }
    EXPECT_LE(scheduler.usage().used, scheduler.prefixes().bytes());
    EXPECT_EQ(scheduler.usage().reserved, 0);
    scheduler.forget_prefixes();
    EXPECT_EQ(scheduler.usage().used, 0);
    prefixes += scheduler.stats().prefix_tokens;
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
  constexpr uint64_t kMany = 12;  // fewer need not have all of it
  if (!emulated && schedules() >= kMany) {
    EXPECT_GT(preemptions, 0);
    EXPECT_GT(prefixes, 0);
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

}  // namespace
}  // namespace reprise::test
