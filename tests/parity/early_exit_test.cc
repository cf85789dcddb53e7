// Early exits of recursive models against golden/rrt: tokens, exit loops, confidences, exit states
// and logits, and the whole KV cache at the end, under each policy for the depths left out
// (propagate, exact, share), on every instruction set and on torch.
//
// The exit rule is the reference's: a token leaves at the first loop whose largest probability
// reaches the threshold in index.json; the prompt runs at full depth.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/rrt_models.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

constexpr int kSteps = 12;
constexpr double kLogits = 3e-4, kHidden = 5e-4, kKv = 2e-4, kConfidence = 1e-4;

using Case = RrtCase;

std::vector<float> floats_of(const WeightFile& file, const std::string& name) {
  return to_floats(file.get(name));
}

// What decoding with early exits gave.
struct Decoded {
  std::vector<int64_t> tokens, exit_loops;
  std::vector<float> logits, hidden, confidence;
};

Decoded decode(const Model& model, Sequence& sequence, std::span<const int32_t> prompt,
               double threshold, ExitKv policy, int loops) {
  Backend& be = model.backend();
  const Plan plan = model.decode_plan();
  const Runner runner(model);
  const auto best = [](std::span<const float> x) {
    return static_cast<int64_t>(std::max_element(x.begin(), x.end()) - x.begin());
  };
  Decoded out;
  Rows rows;
  const auto n = static_cast<int64_t>(prompt.size());
  rows.append(sequence, n, n);
  Tensor state = model.forward(plan, rows, model.embed(prompt));
  const auto judge = [&](const Tensor& x) { return be.to_host(model.logits(model.final_norm(x))); };
  out.tokens.push_back(best(judge(be.slice(state, 0, n - 1, n))));
  for (int step = 0; step < kSteps; ++step) {
    const int32_t ids[] = {static_cast<int32_t>(out.tokens.back())};
    Rows one;
    one.append(sequence, 1, sequence.length + 1);
    const auto cohort = runner.start(plan, std::move(one), model.embed(ids));
    std::vector<float> confidence(static_cast<size_t>(loops), -1.0f);
    while (!cohort->done()) {
      if (cohort->visit()) {
        runner.visit(*cohort);
        continue;
      }
      const int loop = cohort->loop_end()->loop;
      const std::vector<float> logits = judge(cohort->state());
      const float top = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
      confidence[static_cast<size_t>(loop)] = static_cast<float>(1 / sum);
      if (1 / sum < threshold && loop + 1 < loops) {
        runner.pass(*cohort);
        continue;
      }
      out.tokens.push_back(best(logits));
      out.exit_loops.push_back(loop);
      out.logits.insert(out.logits.end(), logits.begin(), logits.end());
      const std::vector<float> hidden = be.to_host(cohort->state());
      out.hidden.insert(out.hidden.end(), hidden.begin(), hidden.end());
      if (const auto rest = runner.leave(*cohort, policy))
        while (!rest->done()) runner.visit(*rest);
    }
    out.confidence.insert(out.confidence.end(), confidence.begin(), confidence.end());
  }
  return out;
}

// [depths, kv_heads, positions, head_dim]
std::pair<std::vector<float>, std::vector<float>> cache(const Model& model,
                                                        const Sequence& sequence) {
  std::pair<std::vector<float>, std::vector<float>> out;
  const Plan plan = model.decode_plan();
  for (const Step& step : plan.steps) {
    const auto* visit = std::get_if<Visit>(&step.op);
    if (!visit) continue;
    const KvRow& row = sequence.kv.at(visit->write);
    const auto [k, v] = model.backend().read_kv(row, 0, row.filled());
    for (const auto& [from, to] : {std::pair{k, &out.first}, std::pair{v, &out.second}}) {
      const std::vector<float> values = model.backend().to_host(from);
      const int64_t n = from.dim(0), heads = from.dim(1), width = from.dim(2);
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t t = 0; t < n; ++t) {
          const auto begin = values.begin() + (t * heads + h) * width;
          to->insert(to->end(), begin, begin + width);
        }
    }
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
  const Model& model = loaded->model();
  const std::string name = fmt::format("{}/early-{}.safetensors", c.shape(), c.init);
  const WeightFile golden = open_safetensors(c.root() / name).weights;
  const double threshold =
      load_json(c.root() / "index.json")["files"][name]["threshold"].get<double>();
  std::vector<int32_t> prompt;
  for (const int64_t id : to_ints(golden.get("prompt"))) prompt.push_back(static_cast<int32_t>(id));

  std::vector<float> exact_k;
  for (const auto& [policy, label] :
       {std::pair{ExitKv::Propagate, "propagate"}, std::pair{ExitKv::Exact, "exact"},
        std::pair{ExitKv::Share, "share"}}) {
    SCOPED_TRACE(label);
    const std::string at = std::string(label) + ".";
    Sequence sequence;
    const Decoded found = decode(model, sequence, prompt, threshold, policy, c.loops);
    EXPECT_EQ(found.tokens, to_ints(golden.get(at + "tokens")));
    EXPECT_EQ(found.exit_loops, to_ints(golden.get(at + "exit_loop")));
    EXPECT_GT(std::count_if(found.exit_loops.begin(), found.exit_loops.end(),
                            [&](int64_t loop) { return loop + 1 < c.loops; }),
              0);
    EXPECT_LE(distance(found.logits, floats_of(golden, at + "exit_logits")), kLogits);
    EXPECT_LE(distance(found.hidden, floats_of(golden, at + "exit_hidden")), kHidden);
    EXPECT_LE(distance(found.confidence, floats_of(golden, at + "confidence")), kConfidence);
    const auto [k, v] = cache(model, sequence);
    EXPECT_LE(distance(k, floats_of(golden, at + "k")), kKv);
    EXPECT_LE(distance(v, floats_of(golden, at + "v")), kKv);
    EXPECT_TRUE(sequence.under_way.empty());

    if (policy != ExitKv::Exact) continue;
    // What exact is exact to: the same tokens run at full depth, in one go.
    std::vector<int32_t> all = prompt;
    for (int step = 0; step < kSteps; ++step)
      all.push_back(static_cast<int32_t>(found.tokens[static_cast<size_t>(step)]));
    Sequence full;
    Rows rows;
    rows.append(full, static_cast<int64_t>(all.size()), static_cast<int64_t>(all.size()));
    model.forward(model.decode_plan(), rows, model.embed(all));
    const auto [full_k, full_v] = cache(model, full);
    const double allowed = GetParam().machine.backend == "cpu" ? 0 : kKv;
    EXPECT_LE(distance(k, full_k), allowed);
    EXPECT_LE(distance(v, full_v), allowed);
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
