#include "eval/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/file.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PlanFiles : public ::testing::Test {
 protected:
  static PlanFile empty() {
    PlanFile file;
    file.inputs = {{"ctx", 256}, {"file", "abc"}};
    return file;
  }
  std::string load_error(const std::string& text, PlanFile file = empty()) const {
    write_file_atomically(path_, text);
    return error_of([&] { file.load(path_, 3, 1); });
  }
  testing::TempFolder folder_;
  const std::filesystem::path path_ = folder_ / "plans.json";
};

TEST_F(PlanFiles, ComeBackAsTheyWere) {
  PlanFile file = empty();
  file.load(path_, 3, 1);  // there is none
  EXPECT_TRUE(file.calibration.empty());
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  file.calibration["0-9"] = {1.0 / 3, 2, 1e-9};
  file.calibration["0-9,3@0.1"] = {nan, inf, 7};
  file.calibration["0-9,4@0.1"] = {nan, nan, nan};
  file.held_out["0-9"] = {4};
  file.result = {{"best", "0-9"}};
  file.save(path_);
  PlanFile again = empty();
  again.load(path_, 3, 1);
  EXPECT_EQ(again.calibration["0-9"], file.calibration["0-9"]);
  const auto& other = again.calibration["0-9,3@0.1"];
  EXPECT_TRUE(std::isnan(other[0]));
  EXPECT_EQ(other[1], inf);
  EXPECT_EQ(other[2], 7);
  EXPECT_FALSE(again.calibration.contains("0-9,4@0.1")) << "nothing measured";
  EXPECT_EQ(again.held_out, file.held_out);
  EXPECT_EQ(again.result, file.result);
}

TEST_F(PlanFiles, OthersAreRefused) {
  EXPECT_THAT(load_error("{"), HasSubstr(path_.string()));
  EXPECT_THAT(load_error("[]"), AllOf(HasSubstr(path_.string()), HasSubstr("plan search")));
  EXPECT_THAT(load_error("{\"reprise_plan_search\": 2}"), HasSubstr("reprise_plan_search"));
  EXPECT_THAT(load_error("{\"reprise_plan_search\": 1}"), HasSubstr("'inputs' is missing"));
  Json json = {{"reprise_plan_search", 1},
               {"inputs", {{"ctx", 128}, {"file", "abc"}}},
               {"result", Json()},
               {"calibration", Json::object()},
               {"held_out", Json::object()}};
  EXPECT_THAT(load_error(json.dump()), AllOf(HasSubstr("'ctx' was 128"), HasSubstr("256")));
  json["inputs"]["ctx"] = 256;
  EXPECT_EQ(load_error(json.dump()), "");
  json["calibration"]["0-9"] = {1, 2};
  EXPECT_THAT(load_error(json.dump()), AllOf(HasSubstr("'0-9'"), HasSubstr("3 figures")));
  json["calibration"]["0-9"] = {1, 2, "many"};
  EXPECT_THAT(load_error(json.dump()), HasSubstr("found \"many\""));
  json["calibration"] = 7;
  EXPECT_THAT(load_error(json.dump()), HasSubstr("'calibration'"));
}

}  // namespace
}  // namespace reprise::test
