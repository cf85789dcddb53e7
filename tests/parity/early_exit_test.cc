// Early exits of recursive models against golden/rrt: tokens, exit loops, confidences, exit states
// and logits, and the whole KV cache at the end, under each policy for the depths left out
// (propagate, exact, share), as `reprise trace --exit` gives them, on every instruction set and on
// torch.
//
// The exit rule is the reference's: a token leaves at the first loop whose largest probability
// reaches the threshold in index.json; the prompt runs at full depth. Blocks of early-stepwise-0 are
// copies of dense layers, those of early-average-4 the means of the tied ones. Its factors come from
// train-init (2x3), or from the stored products of 3x2, taken apart here: any factors of the same
// product are the same function.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "trace/trace_exits.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

constexpr int kSteps = 12;
constexpr int kRank = 4;
constexpr double kLogits = 3e-4, kHidden = 5e-4, kKv = 2e-4, kConfidence = 1e-4;

struct Case {
  std::string model;  // folder below golden/rrt
  int blocks = 0, loops = 0;
  std::string init;  // "stepwise-0", "average-4"
  std::string name() const { return fmt::format("{}_{}x{}_{}", model, blocks, loops, init); }
  std::filesystem::path root() const { return golden_root() / "rrt" / model; }
  std::string shape() const { return fmt::format("{}x{}", blocks, loops); }
};

using Matrices = std::map<std::string, std::pair<Shape, std::vector<float>>>;

// A rank-4 product [out, in] as B [out, 4] A [4, in]: Gram-Schmidt on its columns, largest first.
void take_apart(const TensorView& product, const std::string& name, Matrices& into) {
  const int64_t out = product.shape[0], in = product.shape[1];
  const std::vector<float> m = to_floats(product);
  std::vector<double> rest(m.begin(), m.end());
  std::vector<float> a(static_cast<size_t>(kRank * in)), b(static_cast<size_t>(out * kRank));
  for (int r = 0; r < kRank; ++r) {
    std::vector<double> sizes(static_cast<size_t>(in));
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j) {
        const double x = rest[static_cast<size_t>(i * in + j)];
        sizes[static_cast<size_t>(j)] += x * x;
      }
    const int64_t pivot = std::max_element(sizes.begin(), sizes.end()) - sizes.begin();
    const double size = std::sqrt(sizes[static_cast<size_t>(pivot)]);
    std::vector<double> direction(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i)
      direction[static_cast<size_t>(i)] =
          size > 0 ? rest[static_cast<size_t>(i * in + pivot)] / size : 0.0;
    for (int64_t j = 0; j < in; ++j) {
      double dot = 0;
      for (int64_t i = 0; i < out; ++i)
        dot += direction[static_cast<size_t>(i)] * rest[static_cast<size_t>(i * in + j)];
      a[static_cast<size_t>(r * in + j)] = static_cast<float>(dot);
      for (int64_t i = 0; i < out; ++i)
        rest[static_cast<size_t>(i * in + j)] -= direction[static_cast<size_t>(i)] * dot;
    }
    for (int64_t i = 0; i < out; ++i)
      b[static_cast<size_t>(i * kRank + r)] = static_cast<float>(direction[static_cast<size_t>(i)]);
  }
  const double left = *std::max_element(rest.begin(), rest.end());
  ASSERT_LT(left, 1e-5) << name << " has a higher rank";
  into[name + ".A"] = {{kRank, in}, std::move(a)};
  into[name + ".B"] = {{out, kRank}, std::move(b)};
}

// Writes the converted model into `folder`.
void write_model(const Case& c, const std::filesystem::path& folder) {
  const bool average = c.init == "average-4";
  Json config = load_json(c.root() / "model/config.json");
  const int dense_layers = config["num_hidden_layers"].get<int>();
  config["num_hidden_layers"] = c.blocks;
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", c.loops}, {"lora_rank", average ? kRank : 0}}}};
  write_file_atomically(folder / "config.json", config.dump());

  const WeightFile dense = open_safetensors(c.root() / "model/model.safetensors").weights;
  Matrices made;
  for (const TensorView& tensor : dense.tensors()) {
    const std::string start = "model.layers.";
    if (!tensor.name.starts_with(start)) {
      made[tensor.name] = {tensor.shape, to_floats(tensor)};
      continue;
    }
    const size_t dot = tensor.name.find('.', start.size());
    const int layer = std::stoi(tensor.name.substr(start.size(), dot - start.size()));
    const std::string rest = tensor.name.substr(dot);
    const std::vector<float> values = to_floats(tensor);
    if (average) {
      auto& [shape, sum] = made[start + std::to_string(layer % c.blocks) + rest];
      shape = tensor.shape;
      sum.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i] / static_cast<float>(c.loops);
    } else {
      for (int block = 0; block < c.blocks; ++block)
        if (layer == block * (dense_layers - 1) / (c.blocks - 1))
          made[start + std::to_string(block) + rest] = {tensor.shape, values};
    }
  }
  if (average) {
    const bool stored = std::filesystem::exists(c.root() / c.shape() / "train-init.safetensors");
    const WeightFile factors =
        open_safetensors(c.root() / c.shape() /
                         (stored ? "train-init.safetensors" : "convert-average-4.safetensors"))
            .weights;
    for (int loop = 0; loop < c.loops; ++loop)
      for (int block = 0; block < c.blocks; ++block)
        for (const char* key : {"q", "k", "v", "o", "gate", "up", "down"}) {
          const std::string name = fmt::format("model.layers.{}.lora.{}.{}", block, loop, key);
          const std::string part = fmt::format("{}.{}.{}", loop, block, key);
          if (stored) {
            for (const char* side : {"A", "B"}) {
              const TensorView& factor = factors.get(fmt::format("lora.{}.{}", part, side));
              made[fmt::format("{}.{}", name, side)] = {factor.shape, to_floats(factor)};
            }
          } else {
            take_apart(factors.get("delta." + part), name, made);
          }
        }
  }
  std::vector<TensorView> tensors;
  for (const auto& [name, tensor] : made)
    tensors.push_back(make_view(name, tensor.first, std::span<const float>(tensor.second)));
  write_safetensors(folder / "model.safetensors", tensors);
}

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
  ASSERT_NO_FATAL_FAILURE(write_model(c, folder.path()));
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
