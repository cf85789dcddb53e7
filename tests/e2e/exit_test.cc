// Early exit on the command line: run, trace and eval --calibrate-exit, and what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ExitTest : public ::testing::Test {
 protected:
  // The six layers of the golden Llama, looped: no trained model, but one whose loops differ.
  void SetUp() override {
    copy_model("rrt/llama", folder_ / "dense");
    copy_model("rrt/llama", folder_ / "looped");
    dense_ = (folder_ / "dense").string();
    looped_ = (folder_ / "looped").string();
    edit_config([](Json& config) {
      config["reprise"] = {{"scheme", "recursive"},
                           {"recursive", {{"loops", 2}, {"lora_rank", 0}}}};
    });
    std::string text;
    for (int i = 0; i < 60; ++i)
      text += "what color is the shape and where is it number " + std::to_string(i);
    write_file_atomically(folder_ / "text.txt", text);
    text_ = (folder_ / "text.txt").string();
  }
  void edit_config(const std::function<void(Json&)>& edit) const {
    edit_json(folder_ / "looped/config.json", edit);
  }
  void store(const Json& exit) const {
    edit_config([&](Json& config) { config["reprise"]["exit"] = exit; });
  }
  Json run_json(std::vector<std::string> extra) const {
    std::vector<std::string> arguments = {"run",          looped_, "--prompt", "what shape",
                                          "--max-tokens", "12",    "--json"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  // What is said of arguments that don't work.
  static std::string refusal(const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments);
    EXPECT_NE(result.exit_code, 0);
    EXPECT_EQ(result.signal, 0);
    return result.err;
  }
  std::string run_refusal(const std::string& model, const std::vector<std::string>& extra) const {
    std::vector<std::string> arguments = {"run",        model,          "--prompt",
                                          "what shape", "--max-tokens", "4"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return refusal(arguments);
  }
  TempFolder folder_;
  std::string dense_, looped_, text_;
};

TEST_F(ExitTest, RunSaysWhereTokensLeft) {
  const Json plain = run_json({});
  EXPECT_FALSE(plain.contains("exit_loops"));
  EXPECT_FALSE(plain.contains("mean_depth"));
  const Json full = run_json({"--exit", "depth:2"});
  EXPECT_EQ(full["tokens"], plain["tokens"]);
  EXPECT_EQ(full["mean_depth"], 2.0);
  EXPECT_EQ(full["exit_loops"], Json(std::vector<int>(12, 1)));
  const Json first = run_json({"--exit", "depth:1", "--exit-kv", "share"});
  EXPECT_EQ(first["mean_depth"], 1.0);
  ASSERT_EQ(first["exit_loops"].size(), first["tokens"].size());
  EXPECT_EQ(first["exit_loops"][0], 1) << "the prompt runs at full depth";
  for (size_t i = 1; i < first["exit_loops"].size(); ++i) EXPECT_EQ(first["exit_loops"][i], 0);
  EXPECT_EQ(first["exit"]["rule"], "depth:1");
  EXPECT_EQ(first["exit"]["kv"], "share");
  EXPECT_EQ(first["exit"]["loops"], 2);
  // Everybody leaves at probability 0+, and the first loop's tokens don't depend on deeper KV.
  const Json eager = run_json({"--exit", "confidence:1e-9"});
  EXPECT_EQ(eager["tokens"], first["tokens"]);
  EXPECT_EQ(eager["exit"]["kv"], "exact");
  EXPECT_EQ(run_json({"--exit", "entropy:1000"})["tokens"], first["tokens"]);
  EXPECT_EQ(run_json({"--exit", "similarity:-1"})["exit_loops"], full["exit_loops"])
      << "from the second loop on";
}

TEST_F(ExitTest, TheSummaryLineAndBeams) {
  const std::vector<std::string> ask = {"run",        looped_,        "--prompt",
                                        "what shape", "--max-tokens", "6"};
  EXPECT_THAT(run_program(ask).err, Not(HasSubstr("loops")));
  std::vector<std::string> early = ask;
  early.insert(early.end(), {"--exit", "depth:1"});
  EXPECT_THAT(run_program(early).err, HasSubstr("mean 1.00 of 2 loops"));
  const Json beams = run_json({"--exit", "depth:1", "--beams", "3"});
  EXPECT_EQ(beams["mean_depth"], 1.0);
  EXPECT_FALSE(beams.contains("exit_loops"));
  EXPECT_EQ(run_json({"--exit", "depth:2", "--beams", "3"})["tokens"],
            run_json({"--beams", "3"})["tokens"]);
}

// Without its colours it is the answer; each token's colour is its loop's.
TEST_F(ExitTest, TheAnswerInColoursOfDepth) {
  std::vector<std::string> ask = {"run", looped_, "--prompt", "what shape", "--max-tokens", "6"};
  ask.insert(ask.end(), {"--exit", "depth:1", "--color-exits"});
  const ProgramResult colored = run_program(ask);
  ASSERT_EQ(colored.exit_code, 0) << colored.err;
  EXPECT_THAT(colored.out, StartsWith("\x1b[0m")) << "the first token is of the full depth";
  EXPECT_THAT(colored.out, HasSubstr("\x1b[32m"));
  EXPECT_THAT(colored.err,
              HasSubstr("after loop 1\x1b[0m: 5, \x1b[0mafter loop 2\x1b[0m: 1 tokens]"));
  ask.pop_back();
  EXPECT_EQ(std::regex_replace(colored.out, std::regex("\x1b\\[[0-9]+m"), ""),
            run_program(ask).out);
  EXPECT_THAT(run_refusal(looped_, {"--color-exits"}), HasSubstr("--color-exits: no token"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "depth:1", "--beams", "2", "--color-exits"}),
              HasSubstr("--color-exits"));
}

TEST_F(ExitTest, TheTracePageShowsDepths) {
  const std::string page = (folder_ / "page.json").string();
  const Json full = run_json({"--trace", page});
  EXPECT_EQ(load_json(page)["measures"][0]["key"], "update");
  const Json early = run_json({"--exit", "depth:1", "--trace", page});
  const Json measures = load_json(page)["measures"];
  const Json& depth = measures[0];
  EXPECT_EQ(depth["key"], "depth");
  EXPECT_EQ(depth["most"], 2);
  const size_t prompt = early["prompt_tokens"].get<size_t>(), all = prompt + 12;
  ASSERT_EQ(depth["values"], Json::array({depth["values"][0]}));
  ASSERT_EQ(depth["values"][0].size(), all);
  const Json& deepest = measures[1]["values"].back();
  for (size_t i = 0; i < all; ++i) {
    const Json& shown = depth["values"][0][i];
    if (i + 1 == all)
      EXPECT_TRUE(shown.is_null()) << "never run";
    else
      EXPECT_EQ(shown, i < prompt ? 2.0 : 1.0) << i;
    EXPECT_EQ(deepest[i].is_null(), i >= prompt) << "left out";
  }
}

TEST_F(ExitTest, WhatRunRefuses) {
  EXPECT_THAT(run_refusal(dense_, {"--exit", "confidence:0.9"}),
              AllOf(HasSubstr("--exit confidence:0.9: the plan has no loop end"),
                    HasSubstr("expected a model with loops")));
  EXPECT_THAT(
      run_refusal(looped_, {"--exit", "confidence"}),
      AllOf(
          HasSubstr("--exit"),
          HasSubstr(
              "confidence:T, entropy:T, similarity:T, gate:T, "
              "depth:N, step:N, cdf:T, weighted, kl:T, minp-kl:T, entropy-diff:T, argmax-stability:N, latent-diff:T, cosine:T or none")));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "confidence:1.5"}),
              HasSubstr("expected a probability above 0, up to 1, found '1.5'"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "depth:0"}), HasSubstr("whole number of loops"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "depth:3"}),
              HasSubstr("--exit depth:3: expected 1 to 2 loops"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "gate:0.5"}),
              AllOf(HasSubstr("--exit gate:0.5: the model has no exit gate"),
                    HasSubstr(looped_ + "/config.json")));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "depth:1", "--exit-kv", "none"}),
              HasSubstr("expected propagate, exact, share or missing, found 'none'"));
  EXPECT_THAT(run_refusal(looped_, {"--exit-kv", "share"}),
              HasSubstr("--exit-kv share: expected a rule to leave by (--exit)"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "none", "--exit-kv", "share"}),
              HasSubstr("--exit-kv share: expected a rule to leave by (--exit), found none"));
  EXPECT_THAT(run_refusal(looped_, {"--exit", "depth:1", "--plan", "0-5"}),
              HasSubstr("no loop end"));
  edit_config([](Json& config) { config["reprise"]["recursive"]["exit_gate"] = true; });
  EXPECT_THAT(run_refusal(looped_, {}), AllOf(HasSubstr("'reprise.exit_gate.weight' is missing"),
                                              HasSubstr("'reprise.exit_gate.bias' is missing")));
}

TEST_F(ExitTest, TheStoredRuleIsTheDefaultOfRun) {
  store({{"kind", "depth"}, {"threshold", 1}, {"kv", "share"}});
  const Json stored = run_json({});
  EXPECT_EQ(stored["exit"]["rule"], "depth:1");
  EXPECT_EQ(stored["exit"]["kv"], "share");
  EXPECT_EQ(stored["mean_depth"], 1.0);
  EXPECT_EQ(run_json({"--exit-kv", "propagate"})["exit"]["kv"], "propagate");
  EXPECT_THAT(run_program({"inspect", looped_}).out, HasSubstr("depth:1, KV share"));
  EXPECT_EQ(run_json({"--exit", "depth:2"})["exit"]["kv"], "exact") << "all of it is replaced";
  EXPECT_FALSE(run_json({"--exit", "none"}).contains("exit"));
  EXPECT_FALSE(run_json({"--plan", "0-5"}).contains("exit")) << "a plan without loops";
  store({{"kind", "depth"}, {"threshold", 3}, {"kv", "exact"}});
  EXPECT_THAT(run_refusal(looped_, {}), AllOf(HasSubstr("config.json: key 'reprise.exit'"),
                                              HasSubstr("expected 1 to 2 loops")));
  store({{"kind", "hunch"}, {"threshold", 0.5}, {"kv", "exact"}});
  EXPECT_THAT(run_refusal(looped_, {}),
              HasSubstr("key 'reprise.exit.kind': expected confidence, "));
  // A bad rule is one that isn't used: others take its place.
  EXPECT_EQ(run_json({"--exit", "depth:1"})["mean_depth"], 1.0);
  EXPECT_FALSE(run_json({"--exit", "none"}).contains("exit"));
  EXPECT_THAT(run_program({"inspect", looped_}).out,
              AllOf(HasSubstr("can't be used: "), HasSubstr("'reprise.exit.kind'")));
  const ProgramResult stored_anew = run_program(
      {"eval", looped_, "--calibrate-exit", text_, "--ctx", "64", "--agreement", "0.5", "--store"});
  EXPECT_EQ(stored_anew.exit_code, 0) << stored_anew.err;
  EXPECT_EQ(run_json({})["exit"]["kv"], "exact");
}

TEST_F(ExitTest, Trace) {
  const std::string in = test_data("golden/rrt/llama/3x2/early-average-4.safetensors").string();
  const std::string out = (folder_ / "out.safetensors").string();
  store({{"kind", "depth"}, {"threshold", 1}, {"kv", "share"}});
  const std::vector<std::string> ask = {"trace", looped_, "--inputs", in,
                                        "--out", out,     "--steps",  "5"};
  const auto with = [&](std::vector<std::string> extra) {
    std::vector<std::string> all = ask;
    all.insert(all.end(), extra.begin(), extra.end());
    return all;
  };
  ASSERT_EQ(run_program(ask).exit_code, 0);
  EXPECT_EQ(open_safetensors(out).weights.find("early.tokens"), nullptr) << "not asked for";
  const std::vector<float> decoded = to_floats(open_safetensors(out).weights.get("decode.logits"));
  const ProgramResult traced =
      run_program(with({"--exit", "confidence:0.2", "--exit-kv", "share"}));
  ASSERT_EQ(traced.exit_code, 0) << traced.err;
  const WeightFile file = open_safetensors(out).weights;
  EXPECT_EQ(to_floats(file.get("decode.logits")), decoded) << "as without a rule";
  EXPECT_EQ(file.get("early.tokens").shape, (Shape{6}));
  EXPECT_EQ(file.get("early.exit_loop").shape, (Shape{5}));
  EXPECT_EQ(file.get("early.exit_logits").shape, (Shape{5, 320}));
  EXPECT_EQ(file.get("early.exit_hidden").shape, (Shape{5, 64}));
  EXPECT_EQ(file.get("early.confidence").shape, (Shape{5, 2}));
  EXPECT_EQ(file.get("early.k").shape, (Shape{12, 2, 29, 16}));
  EXPECT_EQ(file.get("early.v").shape, (Shape{12, 2, 29, 16}));
  std::vector<std::string> no_steps = with({"--exit", "depth:1"});
  no_steps.erase(no_steps.begin() + 6, no_steps.begin() + 8);
  EXPECT_THAT(refusal(no_steps), HasSubstr("--exit: expected --steps"));
  EXPECT_THAT(refusal(with({"--exit", "depth:3"})), HasSubstr("expected 1 to 2 loops"));
  EXPECT_THAT(refusal(with({"--exit", "perplexity:3"})), HasSubstr("confidence:T"));
}

TEST_F(ExitTest, CalibrationFindsAndStoresAThreshold) {
  const std::vector<std::string> ask = {
      "eval", looped_, "--calibrate-exit", text_, "--ctx", "64", "--agreement", "0.5", "--json"};
  const auto with = [&](std::vector<std::string> extra) {
    std::vector<std::string> all = ask;
    all.insert(all.end(), extra.begin(), extra.end());
    return all;
  };
  for (const char* kind : {"confidence", "entropy"}) {
    const ProgramResult result = run_program(with({"--exit", kind}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const Json report = parse_json(result.out, "stdout");
    EXPECT_EQ(report["loops"], 2);
    EXPECT_EQ(report["exit"]["kind"], kind);
    EXPECT_GE(report["calibration"]["agreement"].get<double>(), 0.5);
    EXPECT_LT(report["calibration"]["mean_depth"].get<double>(), 2.0);
    const double held = report["held_out"]["agreement"].get<double>();
    EXPECT_LE(report["held_out"]["interval"][0].get<double>(), held);
    EXPECT_GE(report["held_out"]["interval"][1].get<double>(), held);
    EXPECT_GT(report["held_out"]["positions"], 0);
    EXPECT_FALSE(report["table"].empty());
    EXPECT_TRUE(report["stored"].is_null());
  }
  EXPECT_FALSE(run_json({}).contains("exit"));

  // Stored in the folder: the rest of config.json stays as it is, order and all.
  const ProgramResult stored = run_program(with({"--store", "--exit-kv", "propagate"}));
  ASSERT_EQ(stored.exit_code, 0) << stored.err;
  const Json rule = parse_json(stored.out, "stdout")["exit"];
  Json config = load_json(folder_ / "looped/config.json");
  EXPECT_EQ(config["reprise"]["exit"], rule);
  EXPECT_EQ(rule["kv"], "propagate");
  EXPECT_EQ(run_json({})["exit"]["kv"], "propagate");
  config["reprise"].erase("exit");
  edit_config([](Json& edited) { edited["reprise"].erase("exit"); });
  EXPECT_EQ(load_json(folder_ / "looped/config.json"), config);
  // A text of its own to judge by gives the same rule.
  const ProgramResult other = run_program(with({"--held-out", text_}));
  ASSERT_EQ(other.exit_code, 0) << other.err;

  // In a GGUF file: a new one.
  const std::string gguf = (folder_ / "looped.gguf").string(),
                    next = (folder_ / "next.gguf").string();
  ASSERT_EQ(run_program({"convert", looped_, gguf}).exit_code, 0);
  std::vector<std::string> of_gguf = with({"--store-as", next});
  of_gguf[1] = gguf;
  const ProgramResult written = run_program(of_gguf);
  ASSERT_EQ(written.exit_code, 0) << written.err;
  const ProgramResult run =
      run_program({"run", next, "--prompt", "what shape", "--max-tokens", "6", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(parse_json(run.out, "stdout")["exit"]["kv"], "exact");
  EXPECT_THAT(refusal(of_gguf), HasSubstr("--store-as " + next + ": exists already"));
  of_gguf.resize(of_gguf.size() - 2);
  of_gguf.push_back("--store");
  EXPECT_THAT(refusal(of_gguf), AllOf(HasSubstr("--store: " + gguf + " is a GGUF file"),
                                      HasSubstr("expected --store-as OUT.gguf")));
  // Before the work: the text isn't even looked at.
  of_gguf.resize(of_gguf.size() - 1);
  of_gguf[3] = (folder_ / "none.txt").string();
  const auto refused = [&](const std::string& target) {
    std::vector<std::string> ask = of_gguf;
    ask.insert(ask.end(), {"--store-as", target});
    return refusal(ask);
  };
  EXPECT_THAT(refused((folder_ / "next").string()),
              HasSubstr("expected a name that ends in .gguf"));
  const std::string nowhere = (folder_ / "no/such/next.gguf").string();
  EXPECT_EQ(refused(nowhere), "reprise: error: --store-as " + nowhere + ": there is no folder " +
                                  (folder_ / "no/such").string() + "\n");
}

TEST_F(ExitTest, WhatCalibrationSaysAndRefuses) {
  const auto calibrate = [&](const std::string& model, std::vector<std::string> extra) {
    std::vector<std::string> all = {"eval", model, "--calibrate-exit", text_, "--ctx", "64"};
    all.insert(all.end(), extra.begin(), extra.end());
    return all;
  };
  const ProgramResult shown = run_program(calibrate(looped_, {"--agreement", "0.4"}));
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out, AllOf(HasSubstr("confidence:"), HasSubstr("95% interval"),
                               HasSubstr("Wilson"), HasSubstr("threshold")));
  EXPECT_THAT(run_program(calibrate(looped_, {"--exit", "depth", "--agreement", "1"})).out,
              HasSubstr("no threshold of depth lets tokens leave early and keeps 100.00%"));
  EXPECT_THAT(refusal(calibrate(looped_, {"--exit", "depth", "--agreement", "1", "--store"})),
              HasSubstr("nothing was stored"));
  EXPECT_THAT(refusal(calibrate(dense_, {})),
              AllOf(HasSubstr("--calibrate-exit: the plan has no loop end"), HasSubstr(dense_)));
  EXPECT_THAT(refusal(calibrate(looped_, {"--exit", "gate"})),
              AllOf(HasSubstr("--exit gate: the model has no exit gate"), HasSubstr(looped_)));
  for (const std::vector<std::string>& ignored : {std::vector<std::string>{"--beams", "2"},
                                                  {"--length-penalty", "2"},
                                                  {"--max-tokens", "3"},
                                                  {"--chunk", "3"},
                                                  {"--no-kl"},
                                                  {"--exif"}})
    EXPECT_THAT(refusal(calibrate(looped_, ignored)), HasSubstr(ignored[0]));
  write_file_atomically(folder_ / "empty.txt", "");
  const std::string empty = (folder_ / "empty.txt").string();
  EXPECT_THAT(
      refusal(calibrate(looped_, {"--held-out", empty})),
      AllOf(HasSubstr("--held-out " + empty), HasSubstr("at least one window of 64 (--ctx)")));
  EXPECT_THAT(refusal(calibrate(looped_, {"--exit", "confidence:0.9"})), HasSubstr("--exit"));
  for (const char* share : {"0", "1.1", "nan"})
    EXPECT_THAT(refusal(calibrate(looped_, {"--agreement", share})), HasSubstr("--agreement"));
  EXPECT_THAT(refusal(calibrate(looped_, {"--ctx", "4096"})), HasSubstr("--ctx"));
  EXPECT_THAT(refusal(calibrate(looped_, {"--store-as", "x.gguf"})),
              AllOf(HasSubstr("--store-as x.gguf: " + looped_ + " is a folder"),
                    HasSubstr("expected --store")));
  EXPECT_THAT(refusal({"eval", looped_, "--perplexity", text_, "--store"}), HasSubstr("--store"));
  write_file_atomically(folder_ / "short.txt", "what shape");
  EXPECT_THAT(refusal({"eval", looped_, "--calibrate-exit", (folder_ / "short.txt").string(),
                       "--ctx", "64"}),
              AllOf(HasSubstr("short.txt"), HasSubstr("expected two windows")));
}

}  // namespace
}  // namespace reprise::testing
