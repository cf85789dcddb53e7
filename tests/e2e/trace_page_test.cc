// `reprise run --trace`: a page and its numbers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TracePageRunTest : public ::testing::Test {
 protected:
  std::vector<std::string> ask(const std::string& out) const {
    return {"run",      (test::source_dir() / "models/tiny-trol.gguf").string(),
            "--image",  (test::source_dir() / "models/demo/circle.png").string(),
            "--prompt", "What shape is in the image?",
            "--trace",  out};
  }
  std::string out(const std::string& name) const { return (folder_ / name).string(); }
  TempFolder folder_;
};

TEST_F(TracePageRunTest, EmbeddedTrolModel) {
  std::vector<std::string> plain = ask("");
  plain.resize(plain.size() - 2);  // without --trace
  const ProgramResult page = run_program(ask(out("page.html")));
  ASSERT_EQ(page.exit_code, 0) << page.err;
  EXPECT_EQ(page.out, run_program(plain).out);  // tracing changes nothing
  EXPECT_THAT(page.err, HasSubstr("page.html"));
  const std::string html = read_file(out("page.html"));
  EXPECT_THAT(html,
              AllOf(StartsWith("<!doctype html>"), HasSubstr("Where does the model look twice?"),
                    HasSubstr("data:image/png;base64,")));
  EXPECT_LT(html.size(), 100'000u);

  ASSERT_EQ(run_program(ask(out("page.json"))).exit_code, 0);
  const Json json = load_json(out("page.json"));
  EXPECT_EQ(json["scheme"], "trol");
  EXPECT_EQ(json["model"], "tiny-trol.gguf");
  EXPECT_EQ(json["pictures"][0]["name"], "circle.png");
  EXPECT_EQ(json["pictures"][0]["side"], 4);
  EXPECT_EQ(json["answer"].get<std::string>() + "\n", page.out);
  const Json& mix = json["measures"][0];
  EXPECT_EQ(mix["key"], "mix");
  ASSERT_EQ(mix["values"].size(), 3u);
  int pictures = 0, weights = 0;
  for (size_t i = 0; i < json["tokens"].size(); ++i) {
    const bool answer = json["tokens"][i]["kind"] == "answer";
    pictures += json["tokens"][i]["kind"] == "picture";
    for (const Json& layer : mix["values"]) {
      EXPECT_EQ(layer[i].is_null(), answer);  // generated tokens aren't traversed
      if (answer) continue;
      EXPECT_GE(layer[i].get<double>(), 0.0);
      EXPECT_LE(layer[i].get<double>(), 1.0);
      ++weights;
    }
  }
  EXPECT_EQ(pictures, 16);
  EXPECT_GT(weights, 3 * 16);
  // The same numbers on one thread and in small chunks.
  std::vector<std::string> other = ask(out("other.json"));
  other.insert(other.end(), {"--threads", "1", "--chunk", "5"});
  ASSERT_EQ(run_program(other).exit_code, 0);
  Json again = load_json(out("other.json"));
  again["backend"] = json["backend"];
  EXPECT_TRUE(again == json);
}

TEST_F(TracePageRunTest, PhantomWithTilesAndJsonReport) {
  copy_model("phantom/qwen2-vit", folder_ / "phantom");
  const std::string picture = test_data("golden/trol/phi3-vit-448/image.png").string();
  const ProgramResult result =
      run_program({"run", (folder_ / "phantom").string(), "--prompt", "what is it", "--image",
                   picture, "--max-tokens", "4", "--json", "--trace", out("page.json")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json report = parse_json(result.out, "stdout"), json = load_json(out("page.json"));
  EXPECT_EQ(json["tokens"].size(), report["prompt_tokens"].get<size_t>() + 4);
  EXPECT_EQ(json["measures"][0]["key"], "gate");
  EXPECT_EQ(json["measures"][0]["heads"], 4);
  EXPECT_EQ(json["measures"][0]["by_head"].size(), 3u);
  const Json& p = json["pictures"][0];
  EXPECT_EQ(report["tiles"].get<int>(),
            p["columns"].get<int>() * p["rows"].get<int>() + p["thumbnail"].get<bool>());
}

TEST_F(TracePageRunTest, ErrorsLeaveNothingBehind) {
  const auto expect_error = [&](const std::vector<std::string>& arguments,
                                const ::testing::Matcher<std::string>& message,
                                const ProgramOptions& options = {}) {
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_THAT(result.err, message);
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
    return result;
  };
  // A name that says nothing is refused before the model is asked.
  EXPECT_EQ(expect_error(ask(out("page.txt")), AllOf(HasSubstr("--trace"), HasSubstr(".html"))).out,
            "");
  expect_error(ask(out("no/such/page.html")), HasSubstr("no/such/page.html"));
  expect_error(ask(out("page.html")), HasSubstr("page.html"), {.largest_file = 4096});
}

}  // namespace
}  // namespace reprise::testing
