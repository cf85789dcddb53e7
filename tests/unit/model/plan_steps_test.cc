// The steps of a plan that looped models are made of, each beside the same arithmetic done by hand
// with visits that stand alone.
#include <gtest/gtest.h>

#include "backend/factory.h"
#include "support/looped_scheme.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

using Values = std::vector<float>;

class PlanSteps : public testing::Test {
 protected:
  PlanSteps() {
    TinyShape shape;
    shape.layers = 3;
    const ModelConfig config =
        config_from_json(tiny_text_config("LlamaForCausalLM", shape), "tiny model");
    model_ = Model::create(config, *be_, tiny_values, std::make_unique<LoopedScheme>(config));
  }
  const LoopedScheme& scheme() const { return static_cast<const LoopedScheme&>(model_->scheme()); }
  static Rows rows_of(Sequence& sequence, int64_t count) {
    Rows rows;
    rows.append(sequence, count, sequence.length + count);
    return rows;
  }
  Tensor embedded(int64_t first, int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((first + i) * 5 % 46));
    return model_->embed(ids);
  }
  static Plan one_visit(int block) {
    Plan plan;
    plan.visit(block, plan.add_kv_row(), -1, "");
    return plan;
  }
  // One visit, whose entries go behind those of `sequence`.
  Tensor visit(int block, Sequence& sequence, const Tensor& x) const {
    return model_->forward(one_visit(block), rows_of(sequence, x.dim(0)), x);
  }
  Values host(const Tensor& x) const { return be_->to_host(x); }

  std::unique_ptr<Backend> be_ =
      make_cpu_backend({.threads = 1, .activations = Activations::F32, .isa = "scalar"});
  std::unique_ptr<Model> model_;
};

TEST_F(PlanSteps, InjectionInitialStateNormAndRegister) {
  constexpr int64_t n = 5;
  Sequence whole;
  const Plan plan = scheme().decode_plan({});
  const Tensor found = model_->forward(plan, rows_of(whole, n), embedded(0, n));

  Sequence parts[2 + LoopedScheme::kLoops];
  const Tensor kept = visit(0, parts[0], embedded(0, n));
  Sequence unused;
  Tensor x = scheme().initial_state(*be_, {2}, rows_of(unused, n));
  for (int loop = 0; loop < LoopedScheme::kLoops; ++loop) {
    x = be_->add(be_->scale(x, 0.5f), kept);
    x = scheme().step_norm(*be_, 0, visit(1, parts[1 + loop], x));
  }
  x = be_->add(x, kept, 0.25f);
  x = model_->final_norm(visit(2, parts[1 + LoopedScheme::kLoops], x));
  EXPECT_EQ(host(found), host(x));
}

TEST_F(PlanSteps, AFactorScalesTheUpdateOfARange) {
  constexpr int64_t n = 5;
  const auto run = [&](const char* text) {
    Sequence sequence;
    return host(model_->forward(parse_plan(text, 3, "plan"), rows_of(sequence, n), embedded(0, n)));
  };
  Sequence parts[5];
  const Tensor x = visit(1, parts[1], visit(0, parts[0], embedded(0, n)));
  const Tensor again = visit(1, parts[3], visit(0, parts[2], x));
  const Tensor damped = be_->add(x, be_->add(again, x, -1.0f), 0.25f);
  EXPECT_EQ(run("0-1,0-1@0.25,2"), host(visit(2, parts[4], damped)));
  EXPECT_EQ(run("0-2,1-2@1"), run("0-2,1-2"));
  EXPECT_EQ(run("0-1,0-1@0,2"), run("0-2"));
}

TEST_F(PlanSteps, ATokenThatLeavesRunsTheCoda) {
  const Plan plan = scheme().decode_plan({});
  const Runner runner(*model_);
  for (const ExitKv policy : {ExitKv::Exact, ExitKv::Propagate, ExitKv::Share}) {
    Sequence sequence;
    const auto cohort = runner.start(plan, rows_of(sequence, 1), embedded(0, 1));
    while (!cohort->loop_end()) runner.visit(*cohort);
    const std::unique_ptr<Cohort> rest = runner.leave(*cohort, policy);
    ASSERT_FALSE(cohort->done());
    ASSERT_TRUE(cohort->visit());
    EXPECT_EQ(cohort->visit()->block, 2);
    // The deeper loops' entries may come before or after the coda.
    if (policy == ExitKv::Exact)
      while (rest && !rest->done()) runner.visit(*rest);
    while (!cohort->done()) runner.visit(*cohort);
    while (rest && !rest->done()) runner.visit(*rest);

    Sequence parts[3], unused;
    const Tensor kept = visit(0, parts[0], embedded(0, 1));
    Tensor x = scheme().initial_state(*be_, {2}, rows_of(unused, 1));
    x = scheme().step_norm(*be_, 0, visit(1, parts[1], be_->add(be_->scale(x, 0.5f), kept)));
    x = model_->final_norm(visit(2, parts[2], be_->add(x, kept, 0.25f)));
    EXPECT_EQ(host(cohort->state()), host(x));
    ASSERT_EQ(sequence.kv.size(), 2u + LoopedScheme::kLoops);
    for (const auto& [number, row] : sequence.kv) EXPECT_EQ(row.filled(), 1) << number;

    // What it left at the loops that it didn't run.
    Sequence full;
    model_->forward(plan, rows_of(full, 1), embedded(0, 1));
    const auto keys = [&](const Sequence& of, int row) {
      return host(be_->read_kv(of.kv.at(row), 0, 1).first);
    };
    for (int row = 2; row <= LoopedScheme::kLoops; ++row) {
      const Values& expected = policy == ExitKv::Share ? keys(sequence, 1) : keys(full, row);
      if (policy == ExitKv::Propagate)
        EXPECT_NE(keys(sequence, row), expected);
      else
        EXPECT_EQ(keys(sequence, row), expected);
    }
  }
}

// Two loops share one KV row, which the second writes: the first sees the past that the second of
// earlier tokens has left, and its own keys.
TEST_F(PlanSteps, ALoopReadsAnothersPast) {
  Plan plan;
  const int row = plan.add_kv_row();
  plan.steps = {{Visit{.block = 0, .read = row, .write = -1, .past = true}, ""},
                {Visit{.block = 0, .read = row, .write = row}, ""}};
  plan.check(1, "plan");
  Sequence sequence, expected;
  constexpr int64_t kCalls[] = {4, 1, 3, 1};
  int64_t first = 0;
  for (const int64_t count : kCalls) {
    const Tensor x = embedded(first, count);
    Sequence past = expected.fork(*be_);  // the first loop's entries are nobody's
    const Tensor by_hand = visit(0, expected, visit(0, past, x));
    const Tensor found = model_->forward(plan, rows_of(sequence, count), x);
    EXPECT_EQ(host(found), host(by_hand)) << "from token " << first;
    first += count;
  }
  EXPECT_EQ(sequence.kv.at(row).filled(), first);
  EXPECT_EQ(host(be_->read_kv(sequence.kv.at(row), 0, first).second),
            host(be_->read_kv(expected.kv.at(row), 0, first).second));
}

}  // namespace
}  // namespace reprise::test
