// Phantom's fused operations of the cpu backend against the same formula put together from others
// (backend/heads.cc), and their independence of what else is in the call.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/factory.h"
#include "backend/heads.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

void expect_near(const std::vector<float>& expected, const std::vector<float>& found) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(expected[i], found[i], 2e-5) << i;
}

constexpr int64_t kHeads = 6, kDim = 40, kRows = 9;
constexpr float kScale = 0.3f, kFactor = 0.25f;

class CpuHeads : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (const IsaInfo& info : cpu_instruction_sets())
      if (info.name == GetParam() && info.runs)
        be = make_cpu_backend({.threads = 2, .isa = GetParam()});
    if (!be) GTEST_SKIP() << GetParam() << " doesn't run here";
    q.weight = in.matrix(*be, DType::F32, {kDim, kDim});
    o.weight = in.matrix(*be, DType::F32, {kDim, kDim});
    for (int i = 0; i < 2; ++i) {
      keys.push_back(in.tensor(*be, {kHeads, kDim}));
      values.push_back(in.tensor(*be, {kHeads, kDim}));
    }
    x = in.tensor(*be, {kRows, kHeads, kDim});
  }
  std::vector<float> widen(const Tensor& rows, std::span<const int32_t> source) {
    const HeadCross part = {rows, &q, &o, keys, values, kFactor};
    return be->to_host(cross_heads(*be, {&part, 1}, kScale, source)[0]);
  }

  std::unique_ptr<Backend> be;
  Inputs in{62};
  LinearWeight q, o;
  std::vector<Tensor> keys, values;
  Tensor x;
  const std::vector<int32_t> source = {0, 0, 1, 0, 1, 1, 1, 1, 0};
};

TEST_P(CpuHeads, CrossHeadsIsItsFormula) {
  const HeadCross part = {x, &q, &o, keys, values, kFactor};
  expect_near(be->to_host(composed_cross_heads(*be, {&part, 1}, kScale, source)[0]),
              widen(x, source));
}

TEST_P(CpuHeads, ARowIsOnItsOwn) {
  const std::vector<float> all = widen(x, source);
  for (int64_t i = 0; i < kRows; ++i) {
    const std::vector<float> alone =
        widen(be->slice(x, 0, i, i + 1), std::span(source).subspan(static_cast<size_t>(i), 1));
    EXPECT_EQ(0, std::memcmp(alone.data(), all.data() + i * kHeads * 2 * kDim,
                             alone.size() * sizeof(float)))
        << "row " << i;
  }
}

TEST_P(CpuHeads, GateHalvesIsItsFormula) {
  LinearWeight first, second;
  for (LinearWeight* w : {&first, &second}) {
    w->weight = in.matrix(*be, DType::F32, {1, kDim});
    w->bias = in.vector(*be, {1});
  }
  const Tensor both = in.tensor(*be, {kRows, kHeads, 2 * kDim});
  const auto [expected, expected_w] = composed_gate_halves(*be, both, kFactor, first, second);
  const auto [out, w] = gate_halves(*be, both, kFactor, first, second);
  expect_near(be->to_host(expected_w), be->to_host(w));
  expect_near(be->to_host(expected), be->to_host(out));
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, CpuHeads,
                         ::testing::Values("scalar", "avx2", "avx512-vnni"), [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace reprise::testing
