// --beams through the program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class BeamsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    copy_model("rrt/llama", folder_ / "llama");
    llama_ = (folder_ / "llama").string();
  }
  Json run_json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  static std::string golden(const std::string& name) {
    return test_data("golden/" + name).string();
  }
  TempFolder folder_;
  std::string llama_;
};

TEST_F(BeamsTest, RunShowsTheBestAndTheOthersAskedFor) {
  const std::vector<std::string> arguments = {
      "run", llama_,         "--prompt", "what shape", "--beams", "3", "--num-return-sequences",
      "2",   "--max-tokens", "8"};
  const Json json = run_json(arguments);
  ASSERT_EQ(json["beams"].size(), 2u);
  EXPECT_EQ(json["beams"][0]["tokens"], json["tokens"]);
  EXPECT_EQ(json["beams"][0]["text"], json["text"]);
  EXPECT_GE(json["beams"][0]["score"], json["beams"][1]["score"]);
  const ProgramResult text = run_program(arguments);
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.out.find(json["text"].get<std::string>()), 0u);
  EXPECT_THAT(text.out, AllOf(HasSubstr("[beam 2, score "),
                              HasSubstr(json["beams"][1]["text"].get<std::string>())));
  const Json greedy = run_json({"run", llama_, "--prompt", "what shape", "--max-tokens", "8"});
  EXPECT_FALSE(greedy.contains("beams"));
}

TEST_F(BeamsTest, TraceWritesTokensAndScores) {
  const std::string case_file = golden("trol/phi3-vit/case-text.safetensors");
  const std::string out = (folder_ / "out.safetensors").string();
  const auto trace = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "trace", golden("trol/phi3-vit/model"), "--inputs", case_file, "--out", out, "--steps",
        "6"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return open_safetensors(out).weights;
  };
  const WeightFile three = trace({"--beams", "3", "--num-return-sequences", "2"});
  const TensorView* tokens = three.find("beams.tokens");
  const TensorView* scores = three.find("beams.scores");
  ASSERT_TRUE(tokens && scores);
  EXPECT_EQ(tokens->type, DType::I64);
  EXPECT_EQ(tokens->shape[0], 2);
  EXPECT_LE(tokens->shape[1], 6);
  EXPECT_EQ(scores->shape, Shape{2});
  EXPECT_GE(to_floats(*scores)[0], to_floats(*scores)[1]);
  const WeightFile one = trace({"--beams", "1"});
  const std::vector<int64_t> best = to_ints(*one.find("beams.tokens"));
  std::vector<int64_t> greedy = to_ints(*one.find("decode.tokens"));
  greedy.resize(best.size());  // up to an end token
  EXPECT_EQ(best, greedy);
  EXPECT_EQ(trace({}).find("beams.tokens"), nullptr);
}

TEST_F(BeamsTest, EvalAnswersWithTheBestBeam) {
  copy_model("phantom/qwen2-vit", folder_ / "phantom");
  const std::string phantom = (folder_ / "phantom").string();
  write_file_atomically(folder_ / "qa.jsonl", "{\"question\":\"what shape?\",\"answer\":\"x\"}\n");
  const std::string out = (folder_ / "out.jsonl").string();
  const Json found = run_json({"eval", phantom, "--qa", (folder_ / "qa.jsonl").string(), "--beams",
                               "3", "--max-tokens", "7", "--predictions", out});
  EXPECT_EQ(found["beams"], 3);
  const Json run =
      run_json({"run", phantom, "--prompt", "what shape?", "--beams", "3", "--max-tokens", "7"});
  const auto prediction = parse_json(read_file(out), out)["prediction"].get<std::string>();
  EXPECT_NE(run["text"].get<std::string>().find(prediction), std::string::npos);
  EXPECT_EQ(found["generated_tokens"], run["generated_tokens"]);
}

TEST_F(BeamsTest, BadOptionsAreErrors) {
  const auto error = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"run", llama_, "--prompt", "a", "--max-tokens", "3"});
    const ProgramResult result = run_program(arguments);
    EXPECT_NE(result.exit_code, 0);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  EXPECT_THAT(error({"--beams", "0"}), HasSubstr("--beams"));
  EXPECT_THAT(error({"--beams", "2", "--num-return-sequences", "3"}), HasSubstr("found 3"));
  EXPECT_THAT(error({"--beams", "2", "--temperature", "0.5"}), HasSubstr("does not sample"));
  EXPECT_THAT(error({"--beams", "2", "--beam-early-stop", "maybe"}), HasSubstr("maybe"));
  const ProgramResult trace =
      run_program({"trace", llama_, "--inputs", "none", "--out", "none", "--beams", "2"});
  EXPECT_NE(trace.exit_code, 0);
  EXPECT_THAT(trace.err, HasSubstr("--steps"));
}

}  // namespace
}  // namespace reprise::testing
