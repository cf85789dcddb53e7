// Every operation of the backend interface, on every instruction set of the cpu backend and on the
// torch backend, against the judge: the cpu backend's plain loops on one thread.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "backend/factory.h"
#include "backend/train_backend.h"
#include "support/paths.h"
#include "support/torch_device.h"
#include "unit/backend/conformance_operations.h"

namespace reprise::testing {

std::vector<Operation> conformance_operations() {
  std::vector<Operation> all;
  for (auto part : {shape_operations(), arithmetic_operations(), linear_operations(),
                    attention_operations(), head_operations()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

namespace {

void compare(const Results& expected, const Results& found, double tolerance) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(expected[i].size(), found[i].size()) << "result " << i;
    double largest = 1;
    for (const float value : expected[i]) largest = std::max(largest, std::fabs(double{value}));
    for (size_t j = 0; j < expected[i].size(); ++j) {
      const double difference = std::fabs(double{expected[i][j]} - found[i][j]);
      ASSERT_TRUE(difference <= tolerance * largest)  // false for NaN
          << "result " << i << "[" << j << "]: expected " << expected[i][j] << ", found "
          << found[i][j] << ", allowed " << tolerance * largest;
    }
  }
}

void check_all(Backend& judge, Backend& backend) {
  for (const Operation& operation : conformance_operations()) {
    ASSERT_FALSE(operation.cases.empty()) << operation.name;
    for (const Case& one : operation.cases) {
      SCOPED_TRACE(backend.description() + ": " + operation.name + ": " + one.name);
      compare(one.run(judge), one.run(backend), operation.tolerance);
    }
  }
}

BackendOptions judge_options(Activations activations) {
  return {.threads = 1, .activations = activations, .isa = "scalar"};
}

class CpuConformance : public ::testing::TestWithParam<std::string> {};

TEST_P(CpuConformance, AllOperationsAgreeWithTheOracle) {
  const std::vector<IsaInfo> sets = cpu_instruction_sets();
  const auto info = std::find_if(sets.begin(), sets.end(),
                                 [](const IsaInfo& set) { return set.name == GetParam(); });
  ASSERT_NE(info, sets.end());
  if (!info->runs)
    GTEST_SKIP() << info->name << (info->built ? ": not on this machine" : ": not built");
  for (const Activations activations : {Activations::F32, Activations::Int8})
    for (const int threads : {1, 3}) {
      const auto judge = make_cpu_backend(judge_options(activations));
      const auto backend =
          make_cpu_backend({.threads = threads, .activations = activations, .isa = info->name});
      check_all(*judge, *backend);
    }
}

std::vector<std::string> instruction_set_names() {
  std::vector<std::string> names;
  for (const IsaInfo& info : cpu_instruction_sets()) names.push_back(info.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, CpuConformance,
                         ::testing::ValuesIn(instruction_set_names()), [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(TorchConformance, AllOperationsAgreeWithTheOracle) {
  if (!torch_plugin_path()) GTEST_SKIP() << "torch not built";
  const auto judge = make_cpu_backend(judge_options(Activations::F32));
  const auto backend = make_torch_backend(
      {.threads = 1, .activations = Activations::F32, .device = test::torch_device()});
  check_all(*judge, *backend);
}

// Int8 activations differ from F32 by the quantization alone: about 1/254 of a block's largest
// value per term, and errors of either sign.
TEST(Int8Activations, StayNearF32) {
  const auto exact = make_cpu_backend(judge_options(Activations::F32));
  const auto int8 = make_cpu_backend(judge_options(Activations::Int8));
  bool differs = false;
  for (const Operation& operation : linear_operations())
    for (const Case& one : operation.cases) {
      SCOPED_TRACE(std::string(operation.name) + ": " + one.name);
      const Results expected = one.run(*exact), found = one.run(*int8);
      compare(expected, found, 0.03);
      differs = differs || expected != found;
    }
  EXPECT_TRUE(differs);
}

// Says at the end of a run what was tested on what.
class Summary : public ::testing::Environment {
 public:
  // The plug-in lies beside the program, which isn't where the test lies.
  void SetUp() override {
    ::setenv("REPRISE_PLUGIN_DIR", std::filesystem::path(test::program()).parent_path().c_str(),
             /*overwrite=*/0);
  }
  void TearDown() override {
    std::string native, emulated, missing;
    for (const IsaInfo& info : cpu_instruction_sets()) {
      std::string& list = !info.runs ? missing : info.emulated ? emulated : native;
      list += (list.empty() ? "" : ", ") + info.name;
    }
    const auto shown = [](const std::string& list) { return list.empty() ? "none" : list.c_str(); };
    std::printf("[backends] natively: %s\n", shown(native));
    std::printf("[backends] through simde: %s\n", shown(emulated));
    std::printf("[backends] not at all: %s\n", shown(missing));
    std::printf("[backends] torch: %s\n", torch_plugin_path() ? "built" : "not built");
  }
};

[[maybe_unused]] const ::testing::Environment* const kSummary =
    ::testing::AddGlobalTestEnvironment(new Summary);

}  // namespace
}  // namespace reprise::testing
