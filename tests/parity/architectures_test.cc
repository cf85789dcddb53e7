// What configs mean, judged by `transformers`: the models of tests/data/parity/architectures (made
// by make_architectures.py there), whose configs differ in one key each, from folders and from GGUF
// files of the Python package; and tests/data/cases, models that were computed wrongly once.
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "convert/looped/convert_looped.h"
#include "formats/safetensors.h"
#include "model/arch/architecture.h"
#include "model/fused_qkv.h"
#include "support/golden.h"
#include "support/paths.h"
#include "support/test_models.h"

namespace reprise::test {
namespace {

constexpr double kTolerance = 2e-4;
const Machine kMachine = {"cpu", "scalar"};

std::filesystem::path root() { return data_dir() / "parity/architectures"; }

std::vector<float> logits_of(const std::filesystem::path& model, const std::vector<int64_t>& ids,
                             const Machine& machine = kMachine) {
  const auto loaded = load_model(model, machine);
  TokenInputs inputs;
  inputs.ids.assign(ids.begin(), ids.end());
  TraceOptions options;
  options.steps = 0;
  for (const TensorView& tensor : trace(*loaded, inputs, options))
    if (tensor.name == "logits") return to_floats(tensor);
  ADD_FAILURE() << "no logits";
  return {};
}

class Architectures : public ::testing::TestWithParam<std::string> {
 protected:
  // A folder of one variant: config.json and the tensors it has.
  std::filesystem::path write_folder(const WeightFile& file, const Json& variant) const {
    const std::string prefix = variant["weights"].get<std::string>() + "/";
    const std::string head = variant["head"];
    const NameTable& names =
        *find_architecture(variant["config"]["architectures"][0].get<std::string>())->names;
    const auto name_of = [&](const char* key) {
      return names.names.at(key) + std::string(".weight");
    };
    std::vector<TensorView> tensors;
    for (TensorView tensor : file.tensors()) {
      if (!tensor.name.starts_with(prefix)) continue;
      tensor.name = tensor.name.substr(prefix.size());
      if (tensor.name == name_of("head")) continue;
      tensors.push_back(tensor);
    }
    if (head != "none") {
      TensorView tensor = file.get(prefix + name_of(head == "copy" ? "embed" : "head"));
      tensor.name = name_of("head");
      tensors.push_back(tensor);
    }
    const std::filesystem::path folder = temp_ / "model";
    std::filesystem::create_directories(folder);
    write_safetensors(folder / "model.safetensors", tensors);
    write_file_atomically(folder / "config.json", variant["config"].dump());
    return folder;
  }

  const reprise::testing::TempFolder temp_;
};

TEST_P(Architectures, EveryKeyMeansWhatItsOwnCodeMeans) {
  const std::string name = GetParam();
  const WeightFile file = open_safetensors(root() / (name + ".safetensors")).weights;
  const std::vector<int64_t> ids = to_ints(file.get("ids"));
  int cases = 0;
  const Json variants = load_json(root() / (name + ".json"));
  for (const auto& [key, variant] : variants.items()) {
    SCOPED_TRACE(name + "-" + key);
    const std::vector<float> expected = to_floats(file.get("logits/" + key));
    EXPECT_LE(distance(logits_of(write_folder(file, variant), ids), expected), kTolerance);
    if (variant["gguf"]) {
      const auto path = root() / (name + "-" + key + ".gguf");
      EXPECT_LE(distance(logits_of(path, ids), expected), kTolerance) << "GGUF";
    }
    ++cases;
  }
  EXPECT_GE(cases, 7);
}

// A model whose fused matrix was taken apart: attention.query, .key, .value.
TEST(Qkv, TakenApartIsTheSameModel) {
  const WeightFile file = open_safetensors(root() / "gpt_neox.safetensors").weights;
  const Json variant = load_json(root() / "gpt_neox.json")["plain"];
  const std::string prefix = variant["weights"].get<std::string>() + "/";
  Json config = variant["config"];
  const TextConfig fused = config_from_json(config, "config").text;
  config["reprise"] = {{"qkv", "separate"}};
  std::vector<TensorView> tensors;
  for (TensorView tensor : file.tensors()) {
    if (!tensor.name.starts_with(prefix)) continue;
    tensor.name = tensor.name.substr(prefix.size());
    const std::string matrix = "query_key_value";
    const size_t at = tensor.name.find(matrix);
    if (at == std::string::npos) {
      tensors.push_back(tensor);
      continue;
    }
    const std::vector<float> values = to_floats(tensor);
    const int64_t width = num_elements(tensor.shape) / tensor.shape[0];
    for (const auto& [key, name] : {std::pair{"q", "query"}, {"k", "key"}, {"v", "value"}}) {
      const std::vector<int64_t> rows = fused_qkv_rows(fused, key);
      std::vector<float> own;
      for (const int64_t row : rows)
        own.insert(own.end(), values.begin() + row * width, values.begin() + (row + 1) * width);
      Shape shape = tensor.shape;
      shape[0] = std::ssize(rows);
      std::string own_name = tensor.name;
      tensors.push_back(make_view(own_name.replace(at, matrix.size(), name), shape, own));
    }
  }
  const reprise::testing::TempFolder folder;
  write_safetensors(folder / "model.safetensors", tensors);
  write_file_atomically(folder / "config.json", config.dump());
  for (const Machine& machine : machines())
    EXPECT_LE(distance(logits_of(folder.path(), to_ints(file.get("ids")), machine),
                       to_floats(file.get("logits/plain"))),
              kTolerance)
        << machine.name();
}

// To a GGUF file of ours and back; a llama.cpp file anew: the same model to the bit.
TEST_P(Architectures, ConvertsThereAndBack) {
  const std::string name = GetParam();
  const WeightFile file = open_safetensors(root() / (name + ".safetensors")).weights;
  const std::vector<int64_t> ids = to_ints(file.get("ids"));
  const auto folder = write_folder(file, load_json(root() / (name + ".json"))["plain"]);
  const std::vector<float> expected = logits_of(folder, ids);
  convert_to_gguf(open_source(folder), temp_ / "own.gguf", {});
  EXPECT_EQ(logits_of(temp_ / "own.gguf", ids), expected);
  convert_to_folder(open_source(temp_ / "own.gguf"), temp_ / "back", {});
  EXPECT_EQ(read_file(temp_ / "back/config.json"), read_file(folder / "config.json"));
  EXPECT_EQ(logits_of(temp_ / "back", ids), expected);
  const auto others = root() / (name + "-plain.gguf");
  if (!std::filesystem::exists(others)) return;
  convert_to_gguf(open_source(others), temp_ / "others.gguf", {});
  EXPECT_EQ(logits_of(temp_ / "others.gguf", ids), logits_of(others, ids));
}

// A looped model whose adapters have full rank is the dense one, where tied layers have the same
// vectors (norms, biases).
class LoopedArchitectures : public Architectures {
 protected:
  // The first half of the layers and the second are tied; the first one stays out where their
  // number is odd.
  std::filesystem::path write_tied_folder(const WeightFile& file, const Json& variant) const {
    const std::filesystem::path folder = write_folder(file, variant);
    const int layers = variant["config"]["num_hidden_layers"];
    const NameTable& names =
        *find_architecture(variant["config"]["architectures"][0].get<std::string>())->names;
    const auto in_layer = [&](int layer) { return fmt::format("{}{}.", names.layers, layer); };
    const WeightFile made = open_safetensors(folder / "model.safetensors").weights;
    std::vector<TensorView> tensors = made.tensors();
    for (TensorView& tensor : tensors)
      for (int layer = layers % 2 + layers / 2; layer < layers; ++layer)
        if (tensor.shape.size() == 1 && tensor.name.starts_with(in_layer(layer))) {
          const std::string name = tensor.name;
          tensor = made.get(in_layer(layer - layers / 2) + name.substr(in_layer(layer).size()));
          tensor.name = name;
        }
    write_safetensors(temp_ / "tied.safetensors", tensors);
    std::filesystem::rename(temp_ / "tied.safetensors", folder / "model.safetensors");
    return folder;
  }
};

TEST_P(LoopedArchitectures, FullRankGivesBackTheDenseModel) {
  const std::string name = GetParam();
  const WeightFile file = open_safetensors(root() / (name + ".safetensors")).weights;
  const std::vector<int64_t> ids = to_ints(file.get("ids"));
  const Json variants = load_json(root() / (name + ".json"));
  const Json& variant = variants[variants.contains("looped") ? "looped" : "plain"];
  const auto folder = write_tied_folder(file, variant);
  const std::vector<float> expected = logits_of(folder, ids);
  const bool shifted = open_source(folder).config->text.final_norm.bias;
  for (const bool fold : {false, true}) {
    if (fold && shifted) continue;  // what norms add goes into biases, and those are shared
    for (const char* target : {"looped", "looped.gguf"}) {
      const LoopOptions loop = {.start = LoopStart::Average,
                                .keep_first = variant["config"]["num_hidden_layers"].get<int>() % 2,
                                .rank = 1000,
                                .fold_norms = fold};
      convert_looped(open_source(folder), temp_ / target, std::string(target).ends_with(".gguf"),
                     loop, {.replace = true});
      EXPECT_LE(distance(logits_of(temp_ / target, ids), expected), kTolerance)
          << target << (fold ? ", norms folded" : "");
    }
  }
}

// One instruction set reads all the configs; every other one, and torch, runs what they lead to.
TEST_P(Architectures, OnEveryMachine) {
  const std::string name = GetParam();
  const WeightFile file = open_safetensors(root() / (name + ".safetensors")).weights;
  const std::vector<int64_t> ids = to_ints(file.get("ids"));
  const auto folder = write_folder(file, load_json(root() / (name + ".json"))["plain"]);
  for (const Machine& machine : machines())
    EXPECT_LE(distance(logits_of(folder, ids, machine), to_floats(file.get("logits/plain"))),
              kTolerance)
        << machine.name();
}

std::vector<std::string> names() {
  std::vector<std::string> list;
  for (const auto& entry : std::filesystem::directory_iterator(root()))
    if (entry.path().extension() == ".json") list.push_back(entry.path().stem().string());
  std::ranges::sort(list);
  return list;
}

INSTANTIATE_TEST_SUITE_P(All, Architectures, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(All, LoopedArchitectures, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(Cases, AreComputedRight) {
  int cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_dir() / "cases")) {
    const std::filesystem::path& folder = entry.path();
    if (!std::filesystem::exists(folder / "want.safetensors")) continue;
    SCOPED_TRACE(folder.filename().string());
    std::filesystem::path model = folder / "model";
    for (const char* file : {"model.gguf", "m-00001-of-00002.gguf"})
      if (std::filesystem::exists(folder / file)) model = folder / file;
    const auto ids = to_ints(open_safetensors(folder / "in.safetensors").weights.get("input_ids"));
    const auto want =
        to_floats(open_safetensors(folder / "want.safetensors").weights.get("logits"));
    EXPECT_LE(distance(logits_of(model, ids), want), kTolerance);
    ++cases;
  }
  EXPECT_GE(cases, 5);
}

}  // namespace
}  // namespace reprise::test
