// Every block and scheme against plain PyTorch code, and ordinary decoders against `transformers`:
// the models of tests/data/parity, made by make_reference.py there. On every instruction set and on
// torch.
//
// Compared: everything a case file holds (pictures' features, layer outputs, mixing weights, logits
// of every loop and of every position, greedy tokens), run through a plan given at run time where
// the case is a replay; the same through GGUF files, whose Llama has its rows of q and k permuted.
// Not in the files: greedy tokens of dynamic rope, where decoding with a cache is not what running
// all again gives, and TroL's, whose cache holds first visits only (golden_test.cc has those).
#include <gtest/gtest.h>

#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise::test {
namespace {

// The reference ran in float64; these are some times the float32 noise seen on any machine.
constexpr Tolerances kTolerances = {.logits = 1e-4, .hidden = 1e-4};

std::filesystem::path root() { return test::data_dir() / "parity"; }

// Variant -> plan to give at run time ("" = the model's own).
Json variants() { return load_json(root() / "variants.json"); }

class Reference : public testing::TestWithParam<Machine> {};

// Runs a case on a model, which may be a folder or a GGUF file of the same weights.
void check(LoadedModel& loaded, const std::string& name, const std::string& variant,
           const std::string& plan) {
  std::vector<GoldenCase> cases =
      load_golden_cases(root() / name / ("case-" + variant + ".safetensors"));
  ASSERT_EQ(cases.size(), 1u);
  GoldenCase& golden = cases[0];
  GoldenCase judge = golden;  // the same from transformers
  judge.expected.clear();
  const auto other = golden.expected.extract("transformers.logits");
  if (other) judge.expected["logits"] = other.mapped();

  TraceOptions options;
  if (!plan.empty()) options.plan.set("plan", plan);
  const bool decodes = golden.expected.contains("decode.tokens");
  options.steps = decodes ? golden.expected.at("decode.tokens").shape[0] : 0;
  const auto traced = trace(loaded, golden.inputs, options);
  Distances largest;
  for (const std::string& problem : compare(golden, traced, kTolerances, &largest))
    ADD_FAILURE() << name << "/" << variant << ": " << problem;
  for (const std::string& problem : compare(judge, traced, kTolerances, &largest))
    ADD_FAILURE() << name << "/" << variant << ", transformers: " << problem;
  testing::Test::RecordProperty(name + "/" + variant, fmt::format("logits {:.1e} hidden {:.1e}",
                                                                  largest.logits, largest.hidden));
}

TEST_P(Reference, EveryModelAndPlan) {
  int cases = 0;
  const Json all = variants();
  for (const auto& [name, plans] : all.items()) {
    const auto loaded = load_model(root() / name, GetParam());
    for (const auto& [variant, plan] : plans.items()) {
      check(*loaded, name, variant, plan.get<std::string>());
      ++cases;
    }
  }
  EXPECT_GE(cases, 14);
}

TEST_P(Reference, GgufFilesOfThePythonPackage) {
  const Json all = variants();
  const std::string names[] = {"llama", "llama-llama3", "llama-linear",
                               "qwen2", "phi3-window",  "phi3-longrope"};
  for (const std::string& name : names) {
    const auto loaded = load_model(root() / (name + ".gguf"), GetParam());
    for (const auto& [variant, plan] : all.at(name).items())
      check(*loaded, name, variant, plan.get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Reference, testing::ValuesIn(machines()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace reprise::test
