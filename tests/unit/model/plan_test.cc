#include "model/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "support/error_of.h"

namespace reprise {
namespace {

using test::error_of;
using testing::HasSubstr;

std::vector<int> blocks_of(const Plan& plan) {
  std::vector<int> blocks;
  for (const Step& step : plan.steps)
    if (const auto* visit = std::get_if<Visit>(&step.op)) blocks.push_back(visit->block);
  return blocks;
}

TEST(Plan, ReplayVisitsBlocksAgainWithKvRowsOfTheirOwn) {
  const Plan plan = parse_plan("0-3,1-2", 4, "--plan");
  EXPECT_EQ(blocks_of(plan), (std::vector<int>{0, 1, 2, 3, 1, 2}));
  EXPECT_EQ(plan.kv_rows.size(), 6u);
  EXPECT_EQ(plan.visits(), 6);
  EXPECT_EQ(plan.unique_blocks(), 4);
  EXPECT_EQ(plan.steps[5].label, "layer.5.out");
  plan.check(4, "plan");
  EXPECT_EQ(blocks_of(parse_plan("3-1,0", 4, "")), (std::vector<int>{3, 2, 1, 0}));
  EXPECT_EQ(parse_plan("0-3", 4, ""), dense_plan(4));
}

TEST(Plan, DampedReplayTakesAFractionOfEachUpdate) {
  const Plan plan = parse_plan("0,1-2*3,3", 4, "--plan");
  EXPECT_EQ(blocks_of(plan), (std::vector<int>{0, 1, 2, 1, 2, 1, 2, 3}));
  int saves = 0, combines = 0;
  for (const Step& step : plan.steps) {
    saves += std::holds_alternative<Save>(step.op);
    if (const auto* combine = std::get_if<Combine>(&step.op)) {
      ++combines;
      EXPECT_FLOAT_EQ(combine->alpha, 1.0f / 3);
    }
  }
  EXPECT_EQ(saves, 3);
  EXPECT_EQ(combines, 3);
  plan.check(4, "plan");
}

TEST(Plan, FactorsScaleTheUpdateOfARange) {
  const Plan plan = parse_plan("0-2,1-2*2@0.25,3@1.5", 4, "--plan");
  EXPECT_EQ(blocks_of(plan), (std::vector<int>{0, 1, 2, 1, 2, 1, 2, 3}));
  std::vector<float> factors;
  for (const Step& step : plan.steps)
    if (const auto* combine = std::get_if<Combine>(&step.op)) factors.push_back(combine->alpha);
  EXPECT_EQ(factors, (std::vector<float>{0.25f, 0.25f, 1.5f}));
  plan.check(4, "plan");
  // A whole update is the plain visit, none is no visit: nothing is computed otherwise.
  EXPECT_EQ(parse_plan("0-3@1,1-2*2@1", 4, ""), parse_plan("0-3,1-2,1-2", 4, ""));
  EXPECT_EQ(parse_plan("0-2,1-2*3@0,3", 4, ""), dense_plan(4));
  EXPECT_EQ(parse_plan("0-3*2@0.5", 4, ""), parse_plan("0-3*2", 4, ""));
}

TEST(Plan, TextErrorsNameThePieceAndWhatWasExpected) {
  const auto error = [](const char* text) {
    return error_of([&] { parse_plan(text, 30, "--plan"); });
  };
  EXPECT_THAT(error("0-30"), testing::AllOf(HasSubstr("--plan"), HasSubstr("no block 30")));
  EXPECT_THAT(error(""), HasSubstr("expected a number"));
  EXPECT_THAT(error("0-"), HasSubstr("expected a number"));
  EXPECT_THAT(error("0,,1"), HasSubstr("expected a number"));
  EXPECT_THAT(error("0-3*0"), HasSubstr("at least 1"));
  EXPECT_THAT(error("0-3x"), HasSubstr("'x' was not understood"));
  EXPECT_THAT(error("-1"), HasSubstr("expected"));
  for (const char* factor : {"@", "@x", "@-1", "@11", "@nan", "@inf", "*2@"})
    EXPECT_THAT(error((std::string("0-3") + factor).c_str()),
                HasSubstr("expected a factor from 0 to 10"))
        << factor;
  EXPECT_THAT(error("0-3@0.5*2"), HasSubstr("'*2' was not understood"));
  EXPECT_THAT(error("0-3@0,4@0"), HasSubstr("runs no block"));
  EXPECT_THAT(error("0-29*1000000"), HasSubstr("more than"));
  EXPECT_THAT(error("99999999999999999999"), HasSubstr("expected a number"));
}

TEST(Plan, SummaryReadsBackAsThePlan) {
  for (const char* text : {"0-29", "0-23,10-14", "5", "0-9,10-14*3,15-29", "3-0", "7,7,7",
                           "0-14,10-14@0.1,15-29", "0-2*3@0.25,3@1.5", "0,5@0.5,5@0.25,1-2*2"})
    EXPECT_EQ(plan_summary(parse_plan(text, 30, "")), text);
  Plan mixed = dense_plan(2);
  mixed.mix({}, "layer.1.mixed");
  EXPECT_EQ(plan_summary(mixed), "(scheme's own)");
}

TEST(Plan, CheckRefusesWhatCannotBeRun) {
  const auto error = [](const std::function<void(Plan&)>& change) {
    Plan plan = dense_plan(3);
    change(plan);
    return error_of([&] { plan.check(3, "test plan"); });
  };
  EXPECT_EQ(error([](Plan&) {}), "");
  EXPECT_THAT(error([](Plan& p) { std::get<Visit>(p.steps[1].op).block = 3; }),
              testing::AllOf(HasSubstr("test plan: step 1"), HasSubstr("block 3")));
  EXPECT_THAT(error([](Plan& p) { std::get<Visit>(p.steps[1].op).write = 7; }),
              HasSubstr("declares 3"));
  EXPECT_THAT(error([](Plan& p) { std::get<Visit>(p.steps[1].op).write = 0; }),
              HasSubstr("second time"));
  EXPECT_THAT(error([](Plan& p) { std::get<Visit>(p.steps[0].op).read = 2; }),
              HasSubstr("before it is written"));
  EXPECT_THAT(error([](Plan& p) {
                p.steps.insert(p.steps.begin(), {Mix{0}, ""});
              }),
              HasSubstr("must follow a visit"));
  EXPECT_THAT(error([](Plan& p) { p.steps.push_back({Save{0}, ""}); }), HasSubstr("register 0"));
  EXPECT_THAT(error([](Plan& p) {
                p.steps.push_back({Combine{0, 0.5f}, ""});
              }),
              HasSubstr("before it is saved"));
  EXPECT_THAT(error([](Plan& p) { p.steps.clear(); }), HasSubstr("no steps"));
}

TEST(Plan, JsonKeepsEverything) {
  Plan plan = parse_plan("0,1*2", 3, "");
  plan.visit(2, plan.add_kv_row(Lifetime::Prompt), 4, "layer.2.pass2");
  plan.mix({1, 0.25f, MixTokens::Image}, "layer.2.out");
  plan.loop_end(0, true);
  EXPECT_EQ(plan_from_json(plan_to_json(plan), "file"), plan);
  Json broken = plan_to_json(plan);
  broken["steps"][0]["op"] = "jump";
  EXPECT_THAT(error_of([&] { plan_from_json(broken, "file"); }),
              testing::AllOf(HasSubstr("file"), HasSubstr("op"), HasSubstr("jump")));
  broken = plan_to_json(plan);
  broken["registers"] = -1;
  EXPECT_THAT(error_of([&] { plan_from_json(broken, "file"); }), HasSubstr("registers"));
}

}  // namespace
}  // namespace reprise
