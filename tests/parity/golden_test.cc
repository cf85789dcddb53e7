// TroL and Phantom against the outputs of their official code: every tensor of every case, on every
// instruction set and on torch.
#include "support/golden.h"

#include <gtest/gtest.h>

namespace reprise::test {
namespace {

constexpr const char* kModels[] = {
    "phantom/qwen2-vit",     "phantom/qwen2-vit-448",     "phantom/phi3-vit",
    "phantom/internlm2-vit", "phantom/internlm2-vit-ntk", "phantom/phi3-vit-window",
    "trol/phi3-vit",         "trol/phi3-vit-448",         "trol/phi3-vit-window",
    "trol/internlm2-clip",   "trol/internlm2-clip-490",   "trol/internlm2-clip-ntk"};
constexpr const char* kCases[] = {"case-text", "case-image", "case-batch2", "case-batch2-image"};
constexpr int64_t kSteps = 6;

struct Param {
  std::string model;
  Machine machine;
};

class Golden : public testing::TestWithParam<Param> {};

TEST_P(Golden, EveryTensorOfEveryCase) {
  const std::filesystem::path folder = golden_root() / GetParam().model;
  const auto loaded = load_model(folder / "model", GetParam().machine);
  int cases = 0;
  for (const char* name : kCases) {
    const std::filesystem::path file = folder / (std::string(name) + ".safetensors");
    if (!std::filesystem::exists(file)) continue;
    for (const GoldenCase& golden : load_golden_cases(file)) {
      Distances largest;
      TraceOptions options;
      options.steps = kSteps;
      const auto traced = trace(*loaded, golden.inputs, options);
      for (const std::string& problem : compare(golden, traced, {}, &largest))
        ADD_FAILURE() << golden.name << ": " << problem;
      RecordProperty(golden.name,
                     fmt::format("logits {:.1e} hidden {:.1e}", largest.logits, largest.hidden));
      ++cases;
    }
  }
  EXPECT_GE(cases, 2);
}

std::vector<Param> all() {
  std::vector<Param> params;
  for (const char* model : kModels)
    for (const Machine& machine : machines()) params.push_back({model, machine});
  return params;
}

INSTANTIATE_TEST_SUITE_P(All, Golden, testing::ValuesIn(all()), [](const auto& info) {
  std::string name = info.param.model + "_" + info.param.machine.name();
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace reprise::test
