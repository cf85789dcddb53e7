// The recursive scheme and layer replay against golden/rrt (a Llama and a Gemma), on every
// instruction set and on torch.
//
// Compared: dense.safetensors whole (logits, layer outputs, greedy tokens and logits, both rows
// alone), and run-stepwise-0 of 3x2 and 2x3 whole: hidden state and logits of every loop, keys and
// values of every depth, greedy tokens and logits, both rows alone. Blocks are made here by the
// README's integer rule, as copies of dense layers; convert-stepwise-0 of 3x2 must hold the same
// bits. A replay plan on the dense model must give the same (its logits exist for the last loop
// only: it has no exits). Not compared: what other inits, LoRA, early exit and losses give, which
// need `convert` and exits that this version doesn't have; adapters are in reference_test.cc.
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

constexpr Tolerances kTolerances = {.logits = 3e-4, .hidden = 5e-4};
constexpr Tolerances kKvTolerances = {.logits = 3e-4, .hidden = 2e-4};
constexpr int kDenseLayers = 6;

std::filesystem::path rrt(const std::string& model) { return golden_root() / "rrt" / model; }

struct LoopShape {
  int blocks = 0;
  int loops = 0;
  std::string folder() const { return fmt::format("{}x{}", blocks, loops); }
};
constexpr LoopShape kShapes[] = {{3, 2}, {2, 3}};

// Stepwise: block j is a copy of this dense layer (0-based).
int dense_layer(const LoopShape& shape, int block) {
  return block * (kDenseLayers - 1) / (shape.blocks - 1);
}

// Writes a recursive model without adapters into `folder`.
void write_recursive(const std::string& model, const LoopShape& shape,
                     const std::filesystem::path& folder) {
  Json config = load_json(rrt(model) / "model/config.json");
  config["num_hidden_layers"] = shape.blocks;
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", shape.loops}, {"lora_rank", 0}}}};
  write_file_atomically(folder / "config.json", config.dump());
  const WeightFile dense = open_safetensors(rrt(model) / "model/model.safetensors").weights;
  std::vector<TensorView> tensors;
  for (const TensorView& tensor : dense.tensors())
    if (!tensor.name.starts_with("model.layers.")) tensors.push_back(tensor);
  for (int block = 0; block < shape.blocks; ++block) {
    const std::string from = fmt::format("model.layers.{}.", dense_layer(shape, block));
    for (const TensorView& tensor : dense.tensors()) {
      if (!tensor.name.starts_with(from)) continue;
      TensorView copy = tensor;
      copy.name = fmt::format("model.layers.{}.{}", block, tensor.name.substr(from.size()));
      tensors.push_back(copy);
    }
  }
  write_safetensors(folder / "model.safetensors", tensors);
}

// One prompt of a file: its tokens, and every tensor that belongs to it under the trace's name.
GoldenCase read_case(const WeightFile& file, const std::string& prefix) {
  GoldenCase golden;
  golden.name = file.where() + " " + prefix;
  golden.inputs.where = golden.name;
  for (int64_t id : to_ints(file.get(prefix.empty() ? "prompt" : prefix + "tokens")))
    golden.inputs.ids.push_back(static_cast<int32_t>(id));
  for (const TensorView& tensor : file.tensors()) {
    std::string name = tensor.name;
    if (name == "prompt" || name == prefix + "tokens" || !name.starts_with(prefix)) continue;
    if (prefix.empty() && name.starts_with("row")) continue;
    name = name.substr(prefix.size());
    if (name.starts_with("greedy.")) name = "decode." + name.substr(7);
    if (name.starts_with("kv.")) name = "layer." + name.substr(3);
    golden.expected[name] = tensor;
  }
  return golden;
}

std::vector<GoldenCase> read_cases(const std::filesystem::path& path) {
  const WeightFile file = open_safetensors(path).weights;
  return {read_case(file, ""), read_case(file, "row0."), read_case(file, "row1.")};
}

void check(LoadedModel& loaded, GoldenCase golden, const std::string& plan) {
  TraceOptions options;
  if (!plan.empty()) options.plan.set("plan", plan);
  options.steps = golden.expected.contains("decode.tokens") ? 8 : 0;
  const auto traced = trace(loaded, golden.inputs, options);
  GoldenCase kv = golden;
  const auto is_kv = [](const auto& entry) {
    return entry.first.starts_with("layer.") && !entry.first.ends_with(".out");
  };
  std::erase_if(golden.expected, is_kv);
  std::erase_if(kv.expected, [&](const auto& entry) { return !is_kv(entry); });
  Distances largest;
  for (const std::string& problem : compare(golden, traced, kTolerances, &largest))
    ADD_FAILURE() << golden.name << ": " << problem;
  for (const std::string& problem : compare(kv, traced, kKvTolerances, &largest))
    ADD_FAILURE() << golden.name << ": " << problem;
  testing::Test::RecordProperty(
      golden.name, fmt::format("logits {:.1e} hidden {:.1e}", largest.logits, largest.hidden));
}

class Recursive : public testing::TestWithParam<std::tuple<std::string, Machine>> {
 protected:
  const std::string model_ = std::get<0>(GetParam());
  const Machine machine_ = std::get<1>(GetParam());
};

TEST_P(Recursive, DenseModel) {
  const auto loaded = load_model(rrt(model_) / "model", machine_);
  for (const GoldenCase& golden : read_cases(rrt(model_) / "dense.safetensors")) {
    EXPECT_GE(golden.expected.size(), 1u);
    check(*loaded, golden, "");
  }
}

TEST_P(Recursive, LoopsOverCopiedLayers) {
  for (const LoopShape& shape : kShapes) {
    const TempFolder folder;
    write_recursive(model_, shape, folder.path());
    const auto loaded = load_model(folder.path(), machine_);
    for (const GoldenCase& golden :
         read_cases(rrt(model_) / shape.folder() / "run-stepwise-0.safetensors")) {
      EXPECT_GE(golden.expected.size(), static_cast<size_t>(2 * shape.loops));
      check(*loaded, golden, "");
    }
  }
}

TEST_P(Recursive, ReplayPlanOnTheDenseModel) {
  const auto loaded = load_model(rrt(model_) / "model", machine_);
  const int64_t weights = loaded->backend().stats().weight_bytes;
  for (const LoopShape& shape : kShapes) {
    std::string plan;
    for (int depth = 0; depth < kDenseLayers; ++depth)
      plan += fmt::format("{}{}", depth ? "," : "", dense_layer(shape, depth % shape.blocks));
    for (GoldenCase& golden :
         read_cases(rrt(model_) / shape.folder() / "run-stepwise-0.safetensors")) {
      for (int loop = 0; loop < shape.loops; ++loop) {
        auto hidden = golden.expected.extract(fmt::format("exit.{}.hidden", loop));
        golden.expected[fmt::format("layer.{}.out", (loop + 1) * shape.blocks - 1)] =
            hidden.mapped();
        const auto logits = golden.expected.extract(fmt::format("exit.{}.logits", loop));
        if (loop + 1 == shape.loops) golden.expected["logits"] = logits.mapped();
      }
      check(*loaded, golden, plan);
    }
  }
  EXPECT_EQ(loaded->backend().stats().weight_bytes, weights);
}

INSTANTIATE_TEST_SUITE_P(All, Recursive,
                         testing::Combine(testing::Values("llama", "gemma"),
                                          testing::ValuesIn(machines())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param).name();
                         });

TEST(RecursiveGolden, ConvertedBlocksAreTheCopiesMadeHere) {
  const LoopShape shape = kShapes[0];
  const WeightFile golden =
      open_safetensors(rrt("llama") / "3x2/convert-stepwise-0.safetensors").weights;
  const std::vector<int64_t> layers = to_ints(golden.get("layers"));
  ASSERT_EQ(layers.size(), 3u);
  const TempFolder folder;
  write_recursive("llama", shape, folder.path());
  const WeightFile made = open_safetensors(folder / "model.safetensors").weights;
  const TensorNames names;
  int blocks = 0;
  for (int block = 0; block < shape.blocks; ++block) {
    EXPECT_EQ(layers[static_cast<size_t>(block)], dense_layer(shape, block) + 1);
    for (const char* key : {"q", "k", "v", "o", "gate", "up", "down", "attn_norm", "mlp_norm"}) {
      const TensorView& expected = golden.get(fmt::format("block.{}.{}", block, key));
      const TensorView& found = made.get(names.of(key, block) + ".weight");
      EXPECT_EQ(found.shape, expected.shape);
      EXPECT_EQ(to_floats(found), to_floats(expected)) << expected.name;
      ++blocks;
    }
  }
  EXPECT_EQ(blocks, 27);
}

}  // namespace
}  // namespace reprise::test
