// Looped models as they are published on the command line: their rules and options on every command.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class LoopedModelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    copy_model("looped/ouro", folder_ / "ouro");
    copy_model("looped/nanbeige", folder_ / "nanbeige");
    copy_model("looped/huginn", folder_ / "huginn");
    copy_model("rrt/llama", folder_ / "dense");
    ouro_ = (folder_ / "ouro").string();
    nanbeige_ = (folder_ / "nanbeige").string();
    huginn_ = (folder_ / "huginn").string();
  }
  static Json json_of(const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.exit_code == 0 ? parse_json(result.out, "stdout") : Json();
  }
  static Json run_json(const std::string& model, const std::vector<std::string>& extra) {
    std::vector<std::string> arguments = {"run",          model, "--prompt", "what shape",
                                          "--max-tokens", "8",   "--json"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return json_of(arguments);
  }
  std::string refusal(const std::string& model, const std::vector<std::string>& extra) const {
    std::vector<std::string> arguments = {"run",        model,          "--prompt",
                                          "what shape", "--max-tokens", "2"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_NE(result.exit_code, 0);
    return result.err;
  }
  std::vector<TensorView> trace(const std::string& model, const std::string& file,
                                const std::vector<std::string>& extra) const {
    const std::string out = (folder_ / "out.safetensors").string();
    std::vector<std::string> arguments = {
        "trace", model, "--inputs", test_data("golden/looped/" + file).string(), "--out", out};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return open_safetensors(out).weights.tensors();
  }
  static const TensorView* find(const std::vector<TensorView>& tensors, const std::string& name) {
    for (const TensorView& tensor : tensors)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }
  TempFolder folder_;
  std::string ouro_, nanbeige_, huginn_;
};

TEST_F(LoopedModelsTest, RunGoesByTheModelsRuleAndTheRequests) {
  const Json own = run_json(ouro_, {});
  EXPECT_EQ(own["depth"]["decode_visits"], 12);
  EXPECT_EQ(own["exit"]["rule"], "cdf:1");
  EXPECT_EQ(own["exit"]["mode"], "skip");
  EXPECT_EQ(own["exit"]["loops"], 4);
  EXPECT_FALSE(run_json(ouro_, {"--exit", "none"}).contains("exit"));

  const Json step = run_json(ouro_, {"--option", "exit_at_step=1"});
  EXPECT_EQ(step["exit"]["rule"], "step:1");
  EXPECT_EQ(step["mean_depth"], 2.0);
  EXPECT_EQ(step["exit_loops"], Json(std::vector<int>(8, 1))) << "of the prompt's last token too";
  EXPECT_EQ(run_json(ouro_, {"--exit-at-step", "1"})["tokens"], step["tokens"]);
  EXPECT_EQ(run_json(ouro_, {"--exit", "step:1"})["tokens"], step["tokens"]);
  const Json two = run_json(ouro_, {"--loops", "2"});
  EXPECT_EQ(two["depth"]["decode_visits"], 6);
  EXPECT_EQ(two["tokens"], step["tokens"]) << "what lies deeper doesn't count";

  const Json skip = run_json(ouro_, {"--exit", "cdf:0.5"});
  const Json select = run_json(ouro_, {"--option", "exit_threshold=0.5", "--exit-mode", "select"});
  EXPECT_EQ(select["exit"]["mode"], "select");
  EXPECT_EQ(skip["tokens"], select["tokens"]);
  EXPECT_EQ(skip["exit_loops"], select["exit_loops"]);
  EXPECT_LT(skip["mean_depth"], 4.0);
  const Json weighted = run_json(ouro_, {"--exit", "weighted"});
  EXPECT_EQ(weighted["exit"]["mode"], "select");
  edit_json(folder_ / "ouro/config.json",
            [](Json& config) { config["early_exit_threshold"] = nullptr; });
  EXPECT_FALSE(run_json(ouro_, {}).contains("exit"));
  EXPECT_EQ(run_json(ouro_, {"--option", "use_weighted_exit=true"})["tokens"], weighted["tokens"]);
  EXPECT_EQ(run_json(ouro_, {"--exit", "cdf:0.5", "--beams", "2"})["exit"]["rule"], "cdf:0.5");

  EXPECT_EQ(run_json(nanbeige_, {})["depth"]["decode_visits"], 8);
  EXPECT_EQ(run_json(nanbeige_, {"--loops", "3"})["depth"]["decode_visits"], 12);
  EXPECT_EQ(run_json(nanbeige_, {"--exit", "depth:1"})["mean_depth"], 1.0);
}

TEST_F(LoopedModelsTest, HuginnsLoopsCriteriaAndStates) {
  EXPECT_EQ(run_json(huginn_, {})["depth"]["decode_visits"], 24);
  const Json three = run_json(huginn_, {"--loops", "3", "--seed", "4"});
  EXPECT_EQ(three["depth"]["decode_visits"], 16);
  EXPECT_EQ(run_json(huginn_, {"--option", "num_steps=3", "--seed", "4"})["tokens"],
            three["tokens"]);
  const Json rule = run_json(huginn_, {"--num-steps", "9", "--exit", "kl:0.3"});
  EXPECT_EQ(rule["exit"]["rule"], "kl:0.3");
  EXPECT_EQ(rule["exit"]["kv"], "missing");
  EXPECT_LT(rule["mean_depth"], 9.0);
  const Json official = run_json(huginn_, {"--option", "num_steps=9", "--option", "criterion=kl",
                                           "--option", "exit_threshold=0.3"});
  EXPECT_EQ(official["tokens"], rule["tokens"]);
  EXPECT_EQ(official["exit_loops"], rule["exit_loops"]);
  EXPECT_EQ(run_json(huginn_, {"--exit", "kl:0.3", "--exit-kv", "exact"})["exit"]["kv"], "exact");
  run_json(huginn_, {"--continuous-compute", "--init-scale", "0"});
  run_json(huginn_, {"--exit", "latent-diff:0.5", "--beams", "2"});

  EXPECT_THAT(refusal(huginn_, {"--exit", "kl:0.3", "--criterion", "kl"}),
              HasSubstr("both say when tokens leave"));
  EXPECT_THAT(refusal(huginn_, {"--exit", "kl:0.3", "--exit-mode", "select"}),
              HasSubstr("layers behind its loops"));
  EXPECT_THAT(refusal(huginn_, {"--criterion", "guess"}), HasSubstr("argmax-stability"));
  EXPECT_THAT(refusal(nanbeige_, {"--init-scale", "0"}),
              HasSubstr("is no option of this model, whose scheme is 'nanbeige'"));

  const auto traced = trace(huginn_, "huginn/case-adaptive-kl-latest-m4.safetensors",
                            {"--steps", "10", "--option", "num_steps=12", "--option",
                             "criterion=kl", "--option", "exit_threshold=0.0334", "--option",
                             "cache_lookup_strategy=latest-m4", "--activations", "f32"});
  ASSERT_TRUE(find(traced, "exit.values"));
  EXPECT_EQ(find(traced, "exit.values")->shape, (Shape{10, 12}));
  EXPECT_EQ(to_ints(*find(traced, "decode.steps"))[1], 10);
  EXPECT_FALSE(find(traced, "early.tokens"));
}

TEST_F(LoopedModelsTest, WhatIsRefused) {
  EXPECT_THAT(refusal(ouro_, {"--option", "exit_step=1"}),
              AllOf(HasSubstr("--option"), HasSubstr("expected NAME=VALUE with a name among"),
                    HasSubstr("exit_at_step"), HasSubstr("found 'exit_step=1'")));
  EXPECT_THAT(refusal(ouro_, {"--option", "exit_at_step"}), HasSubstr("NAME=VALUE"));
  EXPECT_THAT(refusal(ouro_, {"--option", "exit_at_step=one"}),
              HasSubstr("exit_at_step: expected an integer from 0"));
  EXPECT_THAT(refusal(ouro_, {"--option", "exit_at_step=4"}),
              HasSubstr("--exit-at-step 4: expected a loop from 0 to 3 of 4"));
  EXPECT_THAT(refusal(ouro_, {"--exit", "step:4"}),
              HasSubstr("--exit step:4: expected a loop's number from 0 to 3"));
  EXPECT_THAT(refusal(ouro_, {"--exit", "step:1", "--exit-threshold", "0.5"}),
              HasSubstr("--exit step:1 and --exit-threshold: both say when tokens leave"));
  EXPECT_THAT(refusal(ouro_, {"--exit", "weighted", "--exit-mode", "skip"}),
              HasSubstr("none can be left out"));
  EXPECT_THAT(refusal(ouro_, {"--use-weighted-exit"}), HasSubstr("beside a threshold"));
  EXPECT_THAT(refusal(ouro_, {"--exit-mode", "both"}), HasSubstr("expected select or skip"));
  EXPECT_THAT(refusal(nanbeige_, {"--exit-at-step", "1"}),
              HasSubstr("--exit-at-step: is no option of this model"));
  EXPECT_THAT(refusal(nanbeige_, {"--exit", "cdf:0.5"}), HasSubstr("no exit gate"));
  EXPECT_THAT(refusal(nanbeige_, {"--exit-mode", "select"}),
              HasSubstr("--exit-mode select: expected a rule to leave by"));
  EXPECT_THAT(refusal((folder_ / "dense").string(), {"--loops", "2"}),
              HasSubstr("--loops: is no option of this model"));
}

TEST_F(LoopedModelsTest, TraceSelectsUnlessToldToSkip) {
  const std::string file = "ouro/case-threshold-0.35.safetensors";
  const auto steps = [](const TensorView* tensor) {
    EXPECT_NE(tensor, nullptr);
    return tensor ? to_ints(*tensor) : std::vector<int64_t>();
  };
  const auto golden = open_safetensors(test_data("golden/looped/" + file)).weights;
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{"--exit", "cdf:0.35"}, {"--option", "exit_threshold=0.35"}}) {
    std::vector<std::string> extra = how;
    extra.insert(extra.end(), {"--steps", "10"});
    const auto selected = trace(ouro_, file, extra);
    EXPECT_EQ(steps(find(selected, "exit_step")), to_ints(golden.get("exit_step")));
    EXPECT_EQ(steps(find(selected, "decode.exit_step")), to_ints(golden.get("decode.exit_step")));
    EXPECT_EQ(steps(find(selected, "decode.tokens")), to_ints(golden.get("decode.tokens")));
    EXPECT_EQ(find(selected, "early.tokens"), nullptr);
    EXPECT_EQ(find(selected, "kv.11.k")->shape, Shape({4, 26, 16}));
  }
  const auto skipped =
      trace(ouro_, file, {"--exit", "cdf:0.35", "--exit-mode", "skip", "--steps", "9"});
  for (const char* name : {"decode.exit_step", "decode.tokens"}) {
    std::vector<int64_t> expected = to_ints(golden.get(name));
    expected.pop_back();
    EXPECT_EQ(steps(find(skipped, name)), expected) << name;
  }
  EXPECT_EQ(steps(find(skipped, "exit_step")), to_ints(golden.get("exit_step")));
  EXPECT_EQ(find(skipped, "decode.cdf"), nullptr) << "not all loops were run";
  EXPECT_EQ(steps(find(skipped, "early.tokens")), to_ints(golden.get("decode.tokens")));
  // Without steps the rule still chooses for the prompt.
  EXPECT_EQ(steps(find(trace(ouro_, file, {"--exit", "cdf:0.35"}), "exit_step")),
            to_ints(golden.get("exit_step")));
  const auto labelled = trace(ouro_, "ouro/case-weighted.safetensors", {});
  EXPECT_NE(find(labelled, "loss"), nullptr);
  EXPECT_NE(find(labelled, "logits"), nullptr);
}

// Visits that write no keys and values of their own have columns, too.
TEST_F(LoopedModelsTest, ThePageShowsEveryVisit) {
  edit_json(folder_ / "nanbeige/config.json", [](Json& config) {
    config.update(
        {{"enable_double_loop_split", true}, {"loop_middle_layers", 2}, {"loop_share_kv", true}});
  });
  const std::string page = folder_.path() / "page.json";
  run_json(nanbeige_, {"--trace", page});
  Json columns = load_json(page)["measures"][0]["columns"];
  ASSERT_EQ(columns.size(), 8u);
  std::set<std::string> labels;
  for (const Json& column : columns) labels.insert(column["label"].get<std::string>());
  EXPECT_EQ(labels.size(), 8u);
  run_json(ouro_, {"--exit", "cdf:0.5", "--trace", page});
  EXPECT_EQ(load_json(page)["measures"][0]["key"], "depth");
}

TEST_F(LoopedModelsTest, OtherCommands) {
  EXPECT_EQ(json_of({"inspect", ouro_, "--json"})["exit"]["rule"], "cdf:1");
  EXPECT_EQ(json_of({"inspect", ouro_, "--json", "--exit-at-step", "0"})["exit"]["rule"], "step:0");
  EXPECT_EQ(json_of({"inspect", ouro_, "--json", "--loops", "6"})["depth"]["loops"], 6);
  std::string text;
  for (int i = 0; i < 40; ++i) text += "what color is the shape number " + std::to_string(i);
  const std::string file = folder_.path() / "text.txt";
  write_file_atomically(file, text);
  const auto perplexity = [&](const std::vector<std::string>& extra) {
    std::vector<std::string> arguments = {"eval",  ouro_, "--perplexity", file,
                                          "--ctx", "64",  "--json"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return json_of(arguments)["perplexity"].get<double>();
  };
  EXPECT_EQ(perplexity({"--option", "exit_at_step=1"}), perplexity({"--loops", "2"}));
  EXPECT_NE(perplexity({"--option", "exit_at_step=1"}), perplexity({}));
  const Json bench = json_of({"bench", ouro_, "--decode", "8", "--tokens", "2", "--repeat", "1",
                              "--option", "exit_at_step=0", "--json"});
  EXPECT_FALSE(bench.is_null());
}

}  // namespace
}  // namespace reprise::testing
