// reprise plan: a plan searched, kept and run, with the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    copy_model("rrt/llama", folder_ / "model");
    std::string text;
    for (int i = 0; i < 40; ++i)
      text += "what color is the shape and where is it number " + std::to_string(i);
    write_file_atomically(folder_ / "text.txt", text);
    std::string questions;
    for (int i = 0; i < 6; ++i)
      questions += Json({{"question", "what is number " + std::to_string(i)},
                         {"answer", i % 2 == 0 ? "red" : "a blue circle"}})
                       .dump() +
                   "\n";
    write_file_atomically(folder_ / "questions.jsonl", questions);
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  ProgramResult search(std::vector<std::string> extra, const ProgramOptions& options = {}) const {
    std::vector<std::string> arguments = {"plan", "search", at("model")};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return run_program(arguments, options);
  }
  ProgramResult search_text(std::vector<std::string> extra,
                            const ProgramOptions& options = {}) const {
    extra.insert(extra.begin(), {"--text", at("text.txt"), "--ctx", "64", "--budget", "20"});
    return search(extra, options);
  }
  Json search_json(std::vector<std::string> extra) const {
    extra.push_back("--json");
    const ProgramResult result = search_text(extra);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  // Of arguments that don't work.
  static std::string refusal(const ProgramResult& result) {
    EXPECT_NE(result.exit_code, 0);
    EXPECT_EQ(result.signal, 0);
    EXPECT_EQ(result.out, "");
    return result.err;
  }
  double perplexity(const std::string& model, std::vector<std::string> extra) const {
    std::vector<std::string> arguments = {"eval",  model, "--perplexity", at("text.txt"),
                                          "--ctx", "64",  "--json"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout")["perplexity"];
  }
  TempFolder folder_;
};

TEST_F(PlanTest, SearchedStoredAndRun) {
  const Json report = search_json({"--held-out", at("text.txt"), "--out", at("plans.json")});
  EXPECT_EQ(report["plain"], "0-5");
  EXPECT_EQ(report["looked_at"], 20);
  const std::string best = report["best"];
  // Both parts are the same text here.
  EXPECT_EQ(report["calibration"], report["held_out"]);
  EXPECT_NEAR(report["held_out"]["plain_perplexity"], perplexity(at("model"), {}), 1e-9);
  EXPECT_NEAR(report["held_out"]["perplexity"], perplexity(at("model"), {"--plan", best}), 1e-9);
  EXPECT_NEAR(report["ranked"][0]["perplexity"], report["calibration"]["perplexity"], 1e-9);
  EXPECT_LE(report["held_out"]["interval"][0], report["held_out"]["nats_per_token"]);

  const ProgramResult stored = run_program({"plan", "store", at("model"), best, at("stored")});
  EXPECT_EQ(stored.exit_code, 0) << stored.err;
  EXPECT_EQ(perplexity(at("stored"), {}), perplexity(at("model"), {"--plan", best}));
  EXPECT_EQ(perplexity(at("stored"), {"--plan", "0-5"}), perplexity(at("model"), {}));
  EXPECT_THAT(run_program({"inspect", at("stored")}).out, HasSubstr(best));
  const ProgramResult converted = run_program({"convert", at("stored"), at("stored.gguf")});
  EXPECT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_EQ(perplexity(at("stored.gguf"), {}), perplexity(at("stored"), {}));
  const ProgramResult plain =
      run_program({"plan", "store", at("stored.gguf"), "none", at("plain.gguf")});
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_EQ(perplexity(at("plain.gguf"), {}), perplexity(at("model"), {}));
  // A batch runs by it, too.
  write_file_atomically(folder_ / "in.jsonl",
                        Json({{"custom_id", "a"},
                              {"method", "POST"},
                              {"url", "/v1/completions"},
                              {"body", {{"prompt", "what"}, {"max_tokens", 4}}}})
                                .dump() +
                            "\n");
  std::vector<std::string> answers;
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{at("stored")}, {at("model"), "--plan", best}}) {
    std::vector<std::string> arguments = {"batch", how[0], at("in.jsonl"),
                                          at("out" + std::to_string(answers.size()) + ".jsonl")};
    arguments.insert(arguments.end(), how.begin() + 1, how.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const Json line = parse_json(read_file(arguments[3]), "answer");
    answers.push_back(line["response"]["body"]["choices"][0].dump());
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(PlanTest, WhatPeopleRead) {
  const ProgramResult result = search_text({});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("0-5 (plain)"), HasSubstr("held out"), HasSubstr("95% interval"),
                    HasSubstr("paired bootstrap"), HasSubstr("plain depth")));
}

TEST_F(PlanTest, QuestionsAreAnsweredToo) {
  const ProgramResult result = search(
      {"--qa", at("questions.jsonl"), "--budget", "8", "--json", "--chat-template", "plain-qa"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json report = parse_json(result.out, "stdout");
  EXPECT_EQ(report["unit"], "questions");
  EXPECT_EQ(report["calibration"]["units"], 3);
  EXPECT_EQ(report["held_out"]["units"], 3);
  EXPECT_TRUE(report["held_out"].contains("exact_match"));
  EXPECT_TRUE(report["held_out"].contains("plain_exact_match"));
}

TEST_F(PlanTest, GoesOnFromItsFile) {
  const Json whole = search_json({"--out", at("whole.json")});
  const auto size = [&] {
    std::error_code ignored;
    return std::filesystem::exists(folder_ / "plans.json", ignored);
  };
  // The first figures come within seconds; where the search was quicker, it has ended.
  const ProgramResult cut = search_text({"--out", at("plans.json"), "--json"},
                                        {.interrupt = SIGINT, .interrupt_when = size});
  if (cut.exit_code != 0) {
    EXPECT_EQ(cut.exit_code, 128 + SIGINT) << cut.err;
    EXPECT_THAT(cut.err, HasSubstr("goes on from"));
  }
  const Json resumed = search_json({"--out", at("plans.json")});
  EXPECT_EQ(resumed, whole);
  const Json again = search_json({"--out", at("plans.json")});
  EXPECT_EQ(again, whole);
  EXPECT_EQ(load_json(folder_ / "plans.json")["result"], whole);

  EXPECT_THAT(refusal(search({"--text", at("text.txt"), "--ctx", "32", "--out", at("plans.json")})),
              AllOf(HasSubstr("plans.json"), HasSubstr("'ctx' was 64")));
  // Another model.
  edit_tensors(folder_ / "model/model.safetensors", [](TensorView& tensor) {
    if (tensor.name == "model.norm.weight")
      tensor = make_view(tensor.name, tensor.shape,
                         std::vector<float>(static_cast<size_t>(num_elements(tensor.shape)), 0.5f));
  });
  EXPECT_THAT(refusal(search_text({"--out", at("plans.json")})),
              AllOf(HasSubstr("plans.json"), HasSubstr("another model")));
}

TEST_F(PlanTest, SearchesThatCantBe) {
  EXPECT_THAT(refusal(search({})), HasSubstr("--text"));
  EXPECT_THAT(refusal(search({"--text", at("nothing.txt")})), HasSubstr("nothing.txt"));
  EXPECT_THAT(refusal(search({"--text", at("text.txt"), "--qa", at("questions.jsonl")})),
              HasSubstr("--qa"));
  write_file_atomically(folder_ / "short.txt", "what color");
  EXPECT_THAT(refusal(search({"--text", at("short.txt")})),
              AllOf(HasSubstr("short.txt"), HasSubstr("4 windows of")));
  EXPECT_THAT(refusal(search_text({"--held-out", at("short.txt")})),
              AllOf(HasSubstr("--held-out"), HasSubstr("2 windows of 64")));
  EXPECT_THAT(refusal(search_text({"--keep", "6"})), HasSubstr("6 blocks"));
  EXPECT_THAT(refusal(search_text({"--try", "0-6"})),
              AllOf(HasSubstr("--try"), HasSubstr("no block 6")));
  EXPECT_THAT(refusal(search_text({"--budget", "0"})), HasSubstr("--budget"));
  EXPECT_THAT(refusal(search_text({"--out", at("nowhere/plans.json")})), HasSubstr("nowhere"));
  write_file_atomically(folder_ / "other.json", "{}");
  EXPECT_THAT(refusal(search_text({"--out", at("other.json")})), HasSubstr("other.json"));
  EXPECT_EQ(read_file(folder_ / "other.json"), "{}");
  write_file_atomically(folder_ / "one.jsonl", "{\"question\": \"what\", \"answer\": \"red\"}\n");
  EXPECT_THAT(refusal(search({"--qa", at("one.jsonl"), "--chat-template", "plain-qa"})),
              HasSubstr("expected 4"));
  copy_model("trol/phi3-vit", folder_ / "trol");
  EXPECT_THAT(refusal(run_program({"plan", "search", at("trol"), "--text", at("text.txt")})),
              AllOf(HasSubstr("scheme 'trol'"), HasSubstr("plan of its own")));
}

TEST_F(PlanTest, StoresThatCantBe) {
  const auto store = [&](const std::string& plan, const std::string& target) {
    return refusal(run_program({"plan", "store", at("model"), plan, at(target)}));
  };
  EXPECT_THAT(store("0-9", "stored"), AllOf(HasSubstr("'0-9'"), HasSubstr("no block 9")));
  EXPECT_THAT(store("", "stored"), HasSubstr("expected"));
  EXPECT_THAT(store("0-5", "stored.gguf"), HasSubstr("expected a folder"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "stored"));
  EXPECT_THAT(refusal(run_program({"plan", "store", at("model"), "0-5"})), HasSubstr("target"));
  EXPECT_THAT(refusal(run_program({"plan"})), HasSubstr("subcommand"));
  EXPECT_THAT(refusal(run_program({"plan", "find"})), Not(HasSubstr("bug")));
}

}  // namespace
}  // namespace reprise::testing
