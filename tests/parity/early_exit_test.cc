// Early exits of recursive models against golden/rrt: tokens, exit loops, confidences, exit states
// and logits, and the whole KV cache at the end, under each policy for the depths left out
// (propagate, exact, share), as `reprise trace --exit` gives them, on every instruction set and on
// torch.
//
// The exit rule is the reference's: a token leaves at the first loop whose largest probability
// reaches the threshold in index.json; the prompt runs at full depth.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/rrt_models.h"
#include "trace/trace_exits.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

constexpr int kSteps = 12;
constexpr double kLogits = 3e-4, kHidden = 5e-4, kKv = 2e-4, kConfidence = 1e-4;

using Case = RrtCase;

// [depths, kv_heads, positions, head_dim]
std::pair<std::vector<float>, std::vector<float>> cache(Model& model, const Sequence& sequence) {
  std::pair<std::vector<float>, std::vector<float>> out;
  for (const KvEntries& depth : kv_by_depth(model, model.decode_plan(), sequence)) {
    out.first.insert(out.first.end(), depth.k.begin(), depth.k.end());
    out.second.insert(out.second.end(), depth.v.begin(), depth.v.end());
  }
  return out;
}

struct Param {
  Case golden;
  Machine machine;
};
void PrintTo(const Param& param, std::ostream* out) { *out << param.golden.name(); }

class EarlyExit : public testing::TestWithParam<Param> {};

TEST_P(EarlyExit, AsTheReference) {
  const Case& c = GetParam().golden;
  const TempFolder folder;
  write_rrt_model(c, folder.path());
  const auto loaded = load_model(folder.path(), GetParam().machine);
  Model& model = loaded->model();
  const std::string name = fmt::format("{}/early-{}.safetensors", c.shape(), c.init);
  const WeightFile golden = open_safetensors(c.root() / name).weights;
  const double threshold =
      load_json(c.root() / "index.json")["files"][name]["threshold"].get<double>();
  const TokenInputs inputs = read_token_inputs(c.root() / name);

  for (const ExitKv policy : {ExitKv::Propagate, ExitKv::Exact, ExitKv::Share}) {
    const std::string label = exit_kv_name(policy);
    SCOPED_TRACE(label);
    std::map<std::string, TensorView> found;
    {
      std::vector<TensorView> traced;
      trace_exits(*loaded, inputs, {.steps = kSteps}, {ExitKind::Confidence, threshold, policy},
                  traced);
      for (const TensorView& tensor : traced) found.emplace(tensor.name, tensor);
    }
    const auto expect_near = [&](const std::string& what, double tolerance) {
      const TensorView& expected = golden.get(label + "." + what);
      const TensorView& given = found.at("early." + what);
      EXPECT_EQ(given.shape, expected.shape) << what;
      EXPECT_LE(distance(to_floats(given), to_floats(expected)), tolerance) << what;
    };
    const std::vector<int64_t> tokens = to_ints(found.at("early.tokens"));
    const std::vector<int64_t> exit_loops = to_ints(found.at("early.exit_loop"));
    EXPECT_EQ(tokens, to_ints(golden.get(label + ".tokens")));
    EXPECT_EQ(exit_loops, to_ints(golden.get(label + ".exit_loop")));
    EXPECT_GT(std::count_if(exit_loops.begin(), exit_loops.end(),
                            [&](int64_t loop) { return loop + 1 < c.loops; }),
              0);
    expect_near("exit_logits", kLogits);
    expect_near("exit_hidden", kHidden);
    expect_near("confidence", kConfidence);
    expect_near("k", kKv);
    expect_near("v", kKv);

    if (policy != ExitKv::Exact) continue;
    // What exact is exact to: the same tokens run at full depth, in one go.
    std::vector<int32_t> all = inputs.ids;
    for (int step = 0; step < kSteps; ++step)
      all.push_back(static_cast<int32_t>(tokens[static_cast<size_t>(step)]));
    Sequence full;
    Rows rows;
    rows.append(full, static_cast<int64_t>(all.size()), static_cast<int64_t>(all.size()));
    model.forward(model.decode_plan(), rows, model.embed(all));
    const auto [full_k, full_v] = cache(model, full);
    const double allowed = GetParam().machine.backend == "cpu" ? 0 : kKv;
    EXPECT_LE(distance(to_floats(found.at("early.k")), full_k), allowed);
    EXPECT_LE(distance(to_floats(found.at("early.v")), full_v), allowed);
  }
}

std::vector<Param> params() {
  std::vector<Param> list;
  for (const char* model : {"llama", "gemma"})
    for (const auto& [blocks, loops] : {std::pair{3, 2}, std::pair{2, 3}})
      for (const char* init : {"stepwise-0", "average-4"})
        for (const Machine& machine : machines())
          list.push_back({{model, blocks, loops, init}, machine});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Golden, EarlyExit, testing::ValuesIn(params()), [](const auto& info) {
  std::string name = info.param.golden.name() + "_" + info.param.machine.name();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace reprise::test
