// Converted models against golden/rrt: hidden states and logits of every loop, greedy decoding, the
// KV cache, on every instruction set and on torch; adapters of full rank, which give back the dense
// model once norms are folded.
#include <gtest/gtest.h>

#include "convert/looped/convert_looped.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

std::filesystem::path rrt(const std::string& model) { return golden_root() / "rrt" / model; }

struct Param {
  std::string model;
  Machine machine;
};

class LoopedConversionParity : public testing::TestWithParam<Param> {
 protected:
  std::unique_ptr<LoadedModel> convert(const LoopOptions& loop) {
    const auto target = folder_ / fmt::format("out{}", ++made_);
    convert_looped(open_source(rrt(GetParam().model) / "model"), target, /*gguf=*/false, loop,
                   {.threads = 2});
    return load_model(target, GetParam().machine);
  }
  // Logits of the last loop for the prompt in the file.
  std::vector<float> logits(LoadedModel& loaded, const WeightFile& file) {
    const std::vector<int64_t> prompt = to_ints(file.get("prompt"));
    const std::vector<int32_t> ids(prompt.begin(), prompt.end());
    Sequence sequence;
    Rows rows;
    const auto n = static_cast<int64_t>(ids.size());
    rows.append(sequence, n, n);
    const Model& model = loaded.model();
    return model.backend().to_host(
        model.logits(model.final_norm(model.forward(model.decode_plan(), rows, model.embed(ids)))));
  }
  TempFolder folder_;
  int made_ = 0;
};

TEST_P(LoopedConversionParity, EveryLoopOfConvertedModels) {
  int cases = 0;
  for (const auto& [blocks, loops] : {std::pair{3, 2}, std::pair{2, 3}})
    for (const char* init : {"average", "lower"}) {
      const auto path = rrt(GetParam().model) / fmt::format("{}x{}", blocks, loops) /
                        fmt::format("run-{}-4.safetensors", init);
      if (!std::filesystem::exists(path)) continue;
      const auto loaded = convert({.start = parse_loop_start(init, ""), .loops = loops, .rank = 4});
      const WeightFile golden = open_safetensors(path).weights;
      GoldenCase whole, kv;
      whole.name = kv.name = path.string();
      for (const int64_t id : to_ints(golden.get("prompt")))
        whole.inputs.ids.push_back(static_cast<int32_t>(id));
      for (const TensorView& tensor : golden.tensors()) {
        if (tensor.name == "prompt" || tensor.name.starts_with("row")) continue;
        if (tensor.name.starts_with("kv."))
          kv.expected["layer." + tensor.name.substr(3)] = tensor;
        else if (tensor.name.starts_with("greedy."))
          whole.expected["decode." + tensor.name.substr(7)] = tensor;
        else
          whole.expected[tensor.name] = tensor;
      }
      const auto traced = trace(*loaded, whole.inputs, {.steps = 8});
      Distances largest;
      for (const auto& problem : compare(whole, traced, {.logits = 3e-4, .hidden = 5e-4}, &largest))
        ADD_FAILURE() << problem;
      for (const auto& problem : compare(kv, traced, {.logits = 3e-4, .hidden = 2e-4}, &largest))
        ADD_FAILURE() << problem;
      ++cases;
    }
  EXPECT_EQ(cases, 3);
}

TEST_P(LoopedConversionParity, FullRank) {
  const std::string& model = GetParam().model;
  const WeightFile golden = open_safetensors(rrt(model) / "3x2/fullrank.safetensors").weights;
  const WeightFile dense = open_safetensors(rrt(model) / "dense.safetensors").weights;
  for (const char* init : {"stepwise", "average", "lower"}) {
    LoopOptions loop = {.start = parse_loop_start(init, ""), .loops = 2, .rank = 1000};
    EXPECT_LE(distance(logits(*convert(loop), dense),
                       to_floats(golden.get(std::string(init) + ".logits"))),
              3e-4)
        << init;
    loop.fold_norms = true;
    EXPECT_LE(distance(logits(*convert(loop), dense), to_floats(dense.get("logits"))), 3e-4)
        << init << ", norms folded";
  }
  // Nothing shared: six loops of a block of zeros.
  const LoopOptions untied = {.start = LoopStart::Untied, .loops = 6, .rank = 1000};
  EXPECT_LE(distance(logits(*convert(untied), dense), to_floats(dense.get("logits"))), 3e-4);
}

std::vector<Param> params() {
  std::vector<Param> list;
  for (const char* model : {"llama", "gemma"})
    for (const Machine& machine : machines()) list.push_back({model, machine});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Golden, LoopedConversionParity, testing::ValuesIn(params()),
                         [](const auto& info) {
                           return info.param.model + "_" + info.param.machine.name();
                         });

}  // namespace
}  // namespace reprise::test
