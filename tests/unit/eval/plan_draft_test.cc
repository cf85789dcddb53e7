#include "eval/plan_draft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "model/plan/plan.h"

namespace reprise {
namespace {

using ::testing::Contains;
using ::testing::Not;

constexpr int kBlocks = 12;

std::set<std::string> texts(const std::vector<PlanDraft>& drafts) {
  std::set<std::string> all;
  for (const PlanDraft& draft : drafts) all.insert(plan_text(draft, kBlocks));
  return all;
}

TEST(PlanDraft, IsWrittenAsParsePlanReadsIt) {
  EXPECT_EQ(plan_text({}, kBlocks), "0-11");
  EXPECT_EQ(plan_text({{.first = 3, .last = 5, .factor = 0.1f}}, kBlocks), "0-5,3-5@0.1,6-11");
  EXPECT_EQ(plan_text({{.first = 3, .last = 3, .times = 2, .factor = 0.1f}}, kBlocks),
            "0-3,3*2@0.1,4-11");
  EXPECT_EQ(plan_text({{.first = 3, .last = 5}}, kBlocks), "0-5,3-5,6-11");
  EXPECT_EQ(
      plan_text({{.first = 3, .last = 5, .again = false, .times = 3, .factor = 1.0f / 3}}, kBlocks),
      "0-2,3-5*3,6-11");
  EXPECT_EQ(plan_text({{.first = 0, .last = 1, .again = false, .factor = 1.1f},
                       {.first = 2, .last = 2, .factor = 0.05f},
                       {.first = 10, .last = 11, .again = false, .factor = 0.9f}},
                      kBlocks),
            "0-1@1.1,2,2@0.05,3-9,10-11@0.9");
}

// In the short form that the program writes plans in, so that equal plans are equal texts.
TEST(PlanDraft, AllOfThemAreTheShortFormsOfTheirPlans) {
  std::vector<PlanDraft> drafts = single_edits(kBlocks, 2);
  for (size_t i = 0, single = drafts.size(); i < single; i += 7)
    for (const PlanDraft& near : neighbours(drafts[i], kBlocks, 2)) drafts.push_back(near);
  EXPECT_GT(drafts.size(), 500u);
  for (const PlanDraft& draft : drafts) {
    const std::string text = plan_text(draft, kBlocks);
    EXPECT_EQ(plan_summary(parse_plan(text, kBlocks, "plan")), text);
    EXPECT_GE(draft[0].first, 2) << text;
    EXPECT_NE(text, "0-11");
  }
}

TEST(PlanDraft, SingleEditsReachEveryBlock) {
  std::set<int> blocks;
  for (const PlanDraft& draft : single_edits(kBlocks, 3))
    for (int block = draft[0].first; block <= draft[0].last; ++block) blocks.insert(block);
  EXPECT_EQ(blocks.size(), 9u);
  EXPECT_TRUE(single_edits(3, 3).empty());
}

TEST(PlanDraft, NeighboursMoveEndsFactorsAndTimes) {
  const auto near = texts(neighbours({{.first = 3, .last = 5, .factor = 0.1f}}, kBlocks, 3));
  EXPECT_THAT(near, Contains("0-5,4-5@0.1,6-11"));
  EXPECT_THAT(near, Contains("0-6,3-6@0.1,7-11"));
  EXPECT_THAT(near, Contains("0-5,3-5@0.2,6-11"));
  EXPECT_THAT(near, Contains("0-5,3-5@0.05,6-11"));
  EXPECT_THAT(near, Contains("0-5,3-5*2@0.05,6-11"));
  EXPECT_THAT(near, Not(Contains("0-5,2-5@0.1,6-11"))) << "a block that is kept";
  const auto scaled =
      texts(neighbours({{.first = 3, .last = 5, .again = false, .factor = 1.1f}}, kBlocks, 0));
  EXPECT_THAT(scaled, Contains("0-2,3-5@1.2,6-11"));
  EXPECT_THAT(scaled, Contains("0-2,3-5@0.9,6-11"));
  EXPECT_THAT(texts(neighbours({{.first = 3, .last = 5, .factor = 0.1f},
                                {.first = 7, .last = 7, .factor = 0.1f}},
                               kBlocks, 0)),
              Contains("0-7,7@0.1,8-11"))
      << "an edit left out";
}

TEST(PlanDraft, JoinsWhatSharesNoBlock) {
  const PlanDraft low = {{.first = 3, .last = 5, .factor = 0.1f}},
                  high = {{.first = 6, .last = 6, .factor = 0.2f}},
                  over = {{.first = 5, .last = 6, .factor = 0.2f}};
  EXPECT_EQ(plan_text(joined(high, low), kBlocks), "0-5,3-5@0.1,6,6@0.2,7-11");
  EXPECT_TRUE(joined(low, over).empty());
}

}  // namespace
}  // namespace reprise
