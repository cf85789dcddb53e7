// Random schedules of cohorts against each request alone: prompts in random chunks that follow each
// other through the blocks, decode steps, early exits under every policy, requests of different
// plans (traversal, replay, damped replay, loops), all sharing visits at random and in random order.
// On the cpu backend every request's states, exits and whole KV cache must hold the same bits as
// alone, one token after the other, its prompt in one piece.
//
// REPRISE_SCHEDULES sets the number of schedules per model (default: a few, for CI). The same test
// under the thread sanitizer runs them on two threads over one model (TwoThreadsOneModel).
#include "support/schedules.h"

#include <gtest/gtest.h>

#include <deque>
#include <thread>

#include "support/golden.h"

namespace reprise::test {
namespace {

// A request: tokens that are given, and for each generated one the loop end it leaves at.
struct Request {
  std::vector<int32_t> tokens;
  int64_t prompt = 0;  // how many of them are the prompt's
  PlanOptions options;
  std::vector<int> exits;  // by token; past the last loop end: none
  ExitKv policy = ExitKv::Exact;
  uint64_t seed = 0;  // of initial states
};

// What a request gave: the state of each of its tokens and its KV cache.
struct Result {
  std::vector<std::vector<float>> states;  // by token
  std::vector<float> kv;
};

class Execution {
 public:
  Execution(const Model& model, const std::vector<Request>& requests)
      : model_(model), runner_(model), be_(model.backend()), requests_(requests) {
    for (const Request& request : requests) {
      Live live;
      live.request = &request;
      live.sequence = std::make_unique<Sequence>();
      live.sequence->initial =
          std::make_shared<const InitialStates>(InitialStates{.seed = request.seed});
      live.prefill = model.prefill_plan(request.options);
      live.decode = model.decode_plan(request.options);
      live.result.states.resize(request.tokens.size());
      live_.push_back(std::move(live));
    }
    // One plan object for all requests of equal plans: they may share cohorts.
    for (Live& live : live_)
      for (Live& first : live_)
        if (first.prefill == live.prefill && first.decode == live.decode) {
          live.shared = &first;
          break;
        }
  }

  std::vector<Result> alone() {
    for (size_t i = 0; i < live_.size(); ++i)
      while (!finished(live_[i])) {
        start({i}, live_[i].request->prompt);
        while (!cohorts_.empty()) step_first();
      }
    return results();
  }

  std::vector<Result> scheduled(Random& random) {
    while (true) {
      std::vector<size_t> can_start;
      for (size_t i = 0; i < live_.size(); ++i)
        if (may_start(live_[i])) can_start.push_back(i);
      if (can_start.empty() && cohorts_.empty()) break;
      if (!can_start.empty() && (cohorts_.empty() || random.chance(3)))
        start_some(can_start, random);
      else
        sweep_some(random);
    }
    return results();
  }

 private:
  struct Live {
    const Request* request = nullptr;
    const Live* shared = nullptr;  // whose plans are used
    std::unique_ptr<Sequence> sequence;
    Plan prefill, decode;
    Result result;
    int64_t started = 0, known = 0;  // tokens whose work has begun, whose state is there
    bool prompt_ended = false;
  };
  // Which request each segment of a cohort belongs to.
  struct Entry {
    std::unique_ptr<Cohort> cohort;
    std::vector<size_t> owners;
    bool trailing = false;  // work for depths left out
  };

  static bool finished(const Live& live) {
    return live.known == static_cast<int64_t>(live.request->tokens.size());
  }
  static bool in_prompt(const Live& live) { return live.started < live.request->prompt; }

  // A chunk of a prompt may follow one that is under way; a generated token follows the one before.
  static bool may_start(const Live& live) {
    if (live.started == static_cast<int64_t>(live.request->tokens.size())) return false;
    return in_prompt(live) || live.known == live.started;
  }

  const Plan& plan_of(const Live& live) const {
    return in_prompt(live) && live.request->prompt > 1 ? live.shared->prefill : live.shared->decode;
  }

  void start(const std::vector<size_t>& owners, int64_t chunk) {
    const Plan& plan = plan_of(live_[owners[0]]);
    Rows rows;
    std::vector<int32_t> ids;
    for (const size_t i : owners) {
      Live& live = live_[i];
      const Request& request = *live.request;
      const bool prompt = in_prompt(live);
      if (!prompt && !live.prompt_ended) {
        live.sequence->end_prompt(live.shared->prefill);
        live.prompt_ended = true;
      }
      const int64_t count = prompt ? std::min(plan.whole_prompts() ? request.prompt : chunk,
                                              request.prompt - live.started)
                                   : int64_t{1};
      rows.append(*live.sequence, count, prompt ? request.prompt : live.started + 1);
      for (int64_t k = 0; k < count; ++k)
        ids.push_back(request.tokens[static_cast<size_t>(live.started + k)]);
      live.started += count;
    }
    cohorts_.push_back({runner_.start(plan, std::move(rows), model_.embed(ids)), owners});
    settle(cohorts_.size() - 1);
  }

  void start_some(const std::vector<size_t>& can_start, Random& random) {
    const size_t first = can_start[random.below(can_start.size())];
    std::vector<size_t> owners;
    for (const size_t i : can_start)
      if (i == first || (&plan_of(live_[i]) == &plan_of(live_[first]) && !random.chance(3)))
        owners.push_back(i);
    const int64_t chunk = 1 + static_cast<int64_t>(random.below(random.chance(4) ? 60 : 9));
    start(owners, chunk);
  }

  // Some of those who wait at one block run it together.
  void sweep_some(Random& random) {
    std::vector<size_t> ready;
    for (size_t c = 0; c < cohorts_.size(); ++c)
      if (runner_.ready(*cohorts_[c].cohort)) ready.push_back(c);
    ASSERT_FALSE(ready.empty()) << "nobody is ready: a deadlock";
    const size_t chosen = ready[random.below(ready.size())];
    const int block = cohorts_[chosen].cohort->visit()->block;
    std::vector<Cohort*> together;
    std::vector<Entry*> entries;
    for (const size_t c : ready) {
      if (cohorts_[c].cohort->visit()->block != block) continue;
      if (c != chosen && random.chance(4)) continue;
      together.push_back(cohorts_[c].cohort.get());
      entries.push_back(&cohorts_[c]);
    }
    if (together.size() > 1 && random.chance(2)) std::swap(together.front(), together.back());
    runner_.visit(together);
    shared_visits_ += together.size() > 1 ? 1 : 0;
    for (size_t c = cohorts_.size(); c-- > 0;) settle(c);
  }

  void step_first() {
    ASSERT_TRUE(runner_.ready(*cohorts_[0].cohort));
    runner_.visit(*cohorts_[0].cohort);
    for (size_t c = cohorts_.size(); c-- > 0;) settle(c);
  }

  // Takes a cohort past loop ends, lets those leave who do, and puts it away when it is done.
  void settle(size_t c) {
    while (cohorts_[c].cohort->loop_end()) {
      Entry& entry = cohorts_[c];
      const int loop = entry.cohort->loop_end()->loop;
      std::vector<size_t> leavers;
      for (size_t s = 0; s < entry.owners.size(); ++s) {
        const RowSegment& segment = entry.cohort->rows().segments[s];
        const Request& request = *live_[entry.owners[s]].request;
        const auto token = static_cast<size_t>(
            entry.cohort->rows().positions[static_cast<size_t>(segment.first_row)]);
        const bool generated = static_cast<int64_t>(token) >= request.prompt;
        if (generated && request.exits[token] == loop) leavers.push_back(s);
      }
      if (leavers.empty()) {
        runner_.pass(*entry.cohort);
        continue;
      }
      Entry gone;
      if (leavers.size() == entry.owners.size()) {
        gone = std::move(entry);
        cohorts_.erase(cohorts_.begin() + static_cast<std::ptrdiff_t>(c));
      } else {
        gone.cohort = runner_.split(*entry.cohort, leavers);
        for (size_t k = leavers.size(); k-- > 0;) {
          const auto at = entry.owners.begin() + static_cast<std::ptrdiff_t>(leavers[k]);
          gone.owners.insert(gone.owners.begin(), *at);
          entry.owners.erase(at);
        }
        runner_.pass(*entry.cohort);
      }
      leave(std::move(gone));
      if (c >= cohorts_.size()) return;
      return settle(c);  // the one that stayed, or who took the place
    }
    if (cohorts_[c].cohort->done()) {
      Entry done = std::move(cohorts_[c]);
      cohorts_.erase(cohorts_.begin() + static_cast<std::ptrdiff_t>(c));
      finish(done);
    }
  }

  // Each leaves under its own policy.
  void leave(Entry all) {
    while (all.cohort) {
      Entry entry;
      if (all.owners.size() > 1) {
        const size_t first[] = {0};
        entry.cohort = runner_.split(*all.cohort, first);
        entry.owners = {all.owners[0]};
        all.owners.erase(all.owners.begin());
      } else {
        entry = std::move(all);
        all.cohort = nullptr;
      }
      const ExitKv policy = live_[entry.owners[0]].request->policy;
      if (auto rest = runner_.leave(*entry.cohort, policy)) {
        exits_ += 1;
        cohorts_.push_back({std::move(rest), entry.owners, true});
      }
      if (!entry.cohort->done()) {  // there is a coda
        cohorts_.push_back(std::move(entry));
        continue;
      }
      finish(entry);
    }
  }

  void finish(const Entry& entry) {
    if (entry.trailing) return;
    const std::vector<float> states = be_.to_host(entry.cohort->state());
    const Rows& rows = entry.cohort->rows();
    const size_t d = states.size() / static_cast<size_t>(rows.size());
    for (size_t s = 0; s < entry.owners.size(); ++s) {
      Live& live = live_[entry.owners[s]];
      const RowSegment& segment = rows.segments[s];
      for (int64_t r = segment.first_row; r < segment.first_row + segment.rows; ++r) {
        const auto begin = states.begin() + r * static_cast<std::ptrdiff_t>(d);
        live.result.states[static_cast<size_t>(rows.positions[static_cast<size_t>(r)])].assign(
            begin, begin + static_cast<std::ptrdiff_t>(d));
      }
      live.known += segment.rows;
    }
  }

  std::vector<Result> results() {
    std::vector<Result> list;
    for (Live& live : live_) {
      EXPECT_TRUE(live.sequence->under_way.empty());
      EXPECT_EQ(live.sequence->length, static_cast<int64_t>(live.request->tokens.size()));
      for (const auto& [number, row] : live.sequence->kv) {
        if (live.request->policy == ExitKv::Missing)
          EXPECT_LE(row.filled(), live.sequence->length) << "KV row " << number;
        else
          EXPECT_EQ(row.filled(), live.sequence->length) << "KV row " << number;
        if (row.filled() == 0) continue;
        const auto [k, v] = be_.read_kv(row, 0, row.filled());
        for (const Tensor& part : {k, v}) {
          const std::vector<float> values = be_.to_host(part);
          live.result.kv.insert(live.result.kv.end(), values.begin(), values.end());
        }
      }
      list.push_back(std::move(live.result));
    }
    return list;
  }

 public:
  int64_t shared_visits_ = 0, exits_ = 0;

 private:
  const Model& model_;
  const Runner runner_;
  Backend& be_;
  const std::vector<Request>& requests_;
  std::vector<Live> live_;
  std::deque<Entry> cohorts_;
};

void expect_same(const std::vector<Result>& expected, const std::vector<Result>& found) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    for (size_t t = 0; t < expected[i].states.size(); ++t) {
      ASSERT_FALSE(expected[i].states[t].empty());
      EXPECT_TRUE(same_bits(expected[i].states[t], found[i].states[t]))
          << "request " << i << ", token " << t;
    }
    EXPECT_TRUE(same_bits(expected[i].kv, found[i].kv)) << "request " << i << ": KV";
  }
}

std::vector<Request> make_requests(const Kind& kind, Random& random) {
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) {
    Request request;
    request.options = kind.plans[random.below(kind.plans.size())];
    request.prompt = 1 + static_cast<int64_t>(random.below(random.chance(3) ? 40 : 8));
    const int64_t total = request.prompt + 2 + static_cast<int64_t>(random.below(6));
    for (int64_t t = 0; t < total; ++t) {
      request.tokens.push_back(4 + static_cast<int32_t>(random.below(42)));
      request.exits.push_back(static_cast<int>(random.below(static_cast<uint64_t>(kind.loops))));
    }
    request.policy = random_policy(kind, random);
    request.seed = random.below(100);
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Param {
  Kind kind;
  Machine machine;
};
void PrintTo(const Param& param, std::ostream* out) { *out << param.kind.name; }

class Schedules : public testing::TestWithParam<Param> {};

TEST_P(Schedules, SameBitsAsAlone) {
  const Kind& kind = GetParam().kind;
  const Machine& machine = GetParam().machine;
  const bool emulated = machine.isa.ends_with("simde");
  const auto one = make_backend_of(machine, 1);
  const auto alone_model = make_model(kind, *one);
  int64_t shared_visits = 0, exits = 0;
  for (uint64_t seed = 1; seed <= (emulated ? 2 : schedules()); ++seed) {
    SCOPED_TRACE(fmt::format("schedule {}", seed));
    Random random(seed);
    const std::vector<Request> requests = make_requests(kind, random);
    const std::vector<Result> expected = Execution(*alone_model, requests).alone();
    const auto be = make_backend_of(machine, 1 + static_cast<int>(random.below(3)));
    const auto model = make_model(kind, *be);
    Execution run(*model, requests);
    const std::vector<Result> found = run.scheduled(random);
    ASSERT_FALSE(HasFatalFailure());
    expect_same(expected, found);
    shared_visits += run.shared_visits_;
    exits += run.exits_;
    if (HasFailure()) return;
  }
  EXPECT_GT(shared_visits, 0);
  if (kind.loops > 1) {
    EXPECT_GT(exits, 0);
  }
}

// Model, scheme and backend are const while running: two threads, each with requests of its own.
TEST_P(Schedules, TwoThreadsOneModel) {
  const Kind& kind = GetParam().kind;
  const Machine& machine = GetParam().machine;
  if (machine.isa.ends_with("simde")) GTEST_SKIP() << "the same code as without simde";
  const auto be = make_backend_of(machine, 2);
  const auto model = make_model(kind, *be);
  std::vector<std::vector<Request>> requests;
  std::vector<std::vector<Result>> expected, found(2);
  for (uint64_t seed : {101, 102}) {
    Random random(seed);
    requests.push_back(make_requests(kind, random));
    expected.push_back(Execution(*model, requests.back()).alone());
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      Random random(200 + i);
      found[i] = Execution(*model, requests[i]).scheduled(random);
    });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < 2; ++i) expect_same(expected[i], found[i]);
}

std::vector<Param> params() {
  std::vector<Param> list;
  for (const Kind& kind : kinds())
    for (const Machine& machine : cpu_machines()) list.push_back({kind, machine});
  return list;
}

INSTANTIATE_TEST_SUITE_P(All, Schedules, testing::ValuesIn(params()), [](const auto& info) {
  std::string name = info.param.kind.name + "_" + info.param.machine.name();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// The harness itself must be able to fail.
TEST(SchedulesHarness, SeesDifferences) {
  const auto be = make_backend_of({"cpu", "scalar"}, 1);
  const Kind kind = kinds()[0];
  const auto model = make_model(kind, *be);
  Random random(1);
  std::vector<Request> requests = make_requests(kind, random);
  const std::vector<Result> expected = Execution(*model, requests).alone();
  requests[2].tokens[0] ^= 1;
  const std::vector<Result> found = Execution(*model, requests).alone();
  EXPECT_FALSE(same_bits(expected[2].states.back(), found[2].states.back()));
  EXPECT_TRUE(same_bits(expected[1].states.back(), found[1].states.back()));
}

// An error in the middle leaves a sequence as it was: a later step reads tokens that no embedding
// has, an allocation fails, a gate is missing. Here: a plan whose second visit names an injection
// that the scheme doesn't have.
TEST(Cohorts, AnErrorRollsBack) {
  const auto be = make_backend_of({"cpu", "scalar"}, 1);
  const auto model = tiny_model(kinds()[0].config, *be);
  const Plan good = model->decode_plan();
  Plan bad = good;
  bad.registers = 1;
  bad.steps.insert(bad.steps.begin(), {Save{0}, ""});
  bad.steps.push_back({Inject{0, 0}, ""});
  const std::vector<int32_t> ids = {5, 6, 7};
  const auto run = [&](const Plan& plan, Sequence& sequence) {
    Rows rows;
    rows.append(sequence, 3, sequence.length + 3);
    return be->to_host(model->forward(plan, rows, model->embed(ids)));
  };
  Sequence clean, broken;
  run(good, clean);
  EXPECT_THROW(run(bad, broken), InternalError);
  EXPECT_EQ(broken.length, 0);
  EXPECT_TRUE(broken.kv.empty());
  run(good, broken);
  EXPECT_THROW(run(bad, broken), InternalError);
  EXPECT_EQ(broken.length, 3);
  EXPECT_TRUE(broken.under_way.empty());
  for (const auto& [number, row] : broken.kv) EXPECT_EQ(row.filled(), 3) << number;
  EXPECT_TRUE(same_bits(run(good, clean), run(good, broken)));
}

}  // namespace
}  // namespace reprise::test
