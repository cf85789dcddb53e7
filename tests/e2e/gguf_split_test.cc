// A GGUF file in two parts, through the program: the same logits as the whole model has in
// transformers 4.57.6, and one file when it is converted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "e2e/program.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::filesystem::path kCase = test_data("cases/gguf-split");
const std::string kFirst = (kCase / "m-00001-of-00002.gguf").string();
const std::string kSecond = (kCase / "m-00002-of-00002.gguf").string();

void expect_logits(const std::string& model, const std::filesystem::path& out) {
  const ProgramResult result =
      run_program({"trace", model, "--inputs", (kCase / "in.safetensors").string(), "--out",
                   out.string(), "--steps", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::vector<float> found = to_floats(open_safetensors(out).weights.get("logits"));
  const std::vector<float> expected =
      to_floats(open_safetensors(kCase / "want.safetensors").weights.get("logits"));
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-5) << i;
}

TEST(GgufSplitProgram, RunsAndConvertsFromItsFirstPart) {
  const TempFolder folder;
  expect_logits(kFirst, folder / "split.safetensors");

  const std::string whole = (folder / "whole.gguf").string();
  const ProgramResult converted = run_program({"convert", kFirst, whole});
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_EQ(open_gguf(whole).parts.size(), 1u);
  expect_logits(whole, folder / "whole.safetensors");

  const ProgramResult facts = run_program({"inspect", kFirst, "--json"});
  EXPECT_EQ(parse_json(facts.out, "inspect")["format"], "GGUF v3, 2 parts") << facts.err;
}

TEST(GgufSplitProgram, TheSecondPartNamesTheFirst) {
  const ProgramResult result = run_program({"inspect", kSecond});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr(kSecond + ": key 'split.no'"), HasSubstr("m-00001-of-00002.gguf")));
}

TEST(GgufSplitProgram, APartIsNotReplacedByItsOwnConversion) {
  const TempFolder folder;
  for (const std::string& part : {kFirst, kSecond})
    std::filesystem::copy(part, folder / std::filesystem::path(part).filename().string());
  const std::string first = (folder / "m-00001-of-00002.gguf").string();
  const std::string second = (folder / "m-00002-of-00002.gguf").string();
  const ProgramResult result = run_program({"convert", first, second, "--force"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("is a part of the model to be converted"));
}

}  // namespace
}  // namespace reprise::testing
