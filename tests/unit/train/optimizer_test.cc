#include "train/loop/optimizer.h"

#include <gtest/gtest.h>

namespace reprise {
namespace {

TEST(LearningRate, WarmsUpThenFollowsACosine) {
  OptimizerRecipe o;
  o.lr = 1.0;
  o.min_lr = 0.1;
  o.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0, 104), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(o, 3, 104), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(o, 4, 104), 1.0);
  EXPECT_NEAR(learning_rate(o, 54, 104), 0.55, 1e-12);  // half way down
  EXPECT_NEAR(learning_rate(o, 104, 104), 0.1, 1e-12);
  o.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0, 1), 1.0);
}

}  // namespace
}  // namespace reprise
