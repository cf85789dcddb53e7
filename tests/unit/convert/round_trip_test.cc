// Hugging Face folder -> GGUF -> folder, over every golden model: nothing is lost, and the GGUF
// file computes the same bits as the folder it was made from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/json.h"
#include "convert/convert.h"
#include "formats/gguf_writer.h"
#include "formats/hf_folder.h"
#include "formats/pickle.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;
using testing::TempFolder;

// "trol/phi3-vit", ...: every folder of the golden data that holds a model.
std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  for (const char* system : {"trol", "phantom", "rrt"})
    for (const auto& entry : std::filesystem::directory_iterator(test::golden_root() / system))
      if (std::filesystem::exists(entry.path() / "model/config.json"))
        names.push_back(std::string(system) + "/" + entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void expect_same_tensors(const WeightFile& a, const WeightFile& b) {
  std::set<std::string> names;
  for (const TensorView& tensor : a.tensors()) {
    names.insert(tensor.name);
    const TensorView* other = b.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->type, tensor.type) << tensor.name;
    EXPECT_EQ(other->shape, tensor.shape) << tensor.name;
    ASSERT_EQ(other->data.size(), tensor.data.size()) << tensor.name;
    EXPECT_EQ(std::memcmp(other->data.data(), tensor.data.data(), tensor.data.size()), 0)
        << tensor.name;
  }
  for (const TensorView& tensor : b.tensors())
    EXPECT_TRUE(names.contains(tensor.name)) << tensor.name;
}

// Config, small files and tensors, trol_gating.pt's too.
void expect_same_model(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const auto& entry : std::filesystem::directory_iterator(a)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".index.json")) continue;
    if (name == "trol_gating.pt")
      expect_same_tensors(open_pt(entry.path()), open_pt(b / name));
    else
      EXPECT_EQ(read_file(entry.path()), read_file(b / name)) << name;
  }
  expect_same_tensors(HfFolder::open(a).weights, HfFolder::open(b).weights);
}

class RoundTrip : public ::testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path model() const { return test::golden_root() / GetParam() / "model"; }
  TempFolder folder_;
  const std::filesystem::path gguf_ = folder_ / "model.gguf";
  const std::filesystem::path back_ = folder_ / "back";
};

TEST_P(RoundTrip, FolderGgufFolder) {
  convert_to_gguf(open_source(model()), gguf_, {});
  const ConvertResult result = convert_to_folder(open_source(gguf_), back_, {});
  expect_same_model(model(), back_);
  EXPECT_EQ(result.bytes, result.source_bytes);
  // And once more: the folder made here gives the same GGUF file but for the name it came from.
  const auto renamed = folder_ / "model";
  std::filesystem::rename(back_, renamed);
  convert_to_gguf(open_source(renamed), folder_ / "again.gguf", {});
  expect_same_tensors(open_gguf(gguf_).weights, open_gguf(folder_ / "again.gguf").weights);
}

TEST_P(RoundTrip, InShards) {
  convert_to_gguf(open_source(model()), gguf_, {});
  ConvertOptions options;
  options.shard_bytes = 200'000;
  const ConvertResult result = convert_to_folder(open_source(gguf_), back_, options);
  EXPECT_THAT(result.files, ::testing::Contains("model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(back_ / "model.safetensors"));
  expect_same_model(model(), back_);
  int64_t total = 0;
  for (const TensorView& tensor : HfFolder::open(back_).weights.tensors())
    total += static_cast<int64_t>(tensor.data.size());
  EXPECT_EQ(load_json(back_ / "model.safetensors.index.json")["metadata"]["total_size"], total);
}

// Every tensor of every case as the folder gives it, to the bit.
TEST_P(RoundTrip, GgufComputesTheSame) {
  const ConversionSource source = open_source(model());
  if (!source.config) GTEST_SKIP() << source.unknown;
  convert_to_gguf(source, gguf_, {});
  test::Machine machine;  // the best that runs natively
  for (const test::Machine& candidate : test::cpu_machines())
    if (!candidate.isa.ends_with("-simde")) machine = candidate;
  const auto from_folder = test::load_model(model(), machine);
  const auto from_gguf = test::load_model(gguf_, machine);
  EXPECT_EQ(from_gguf->config().scheme, from_folder->config().scheme);
  TraceOptions options;
  options.steps = 3;
  int cases = 0;
  for (const char* name : {"case-text", "case-image", "dense"}) {
    const auto file = test::golden_root() / GetParam() / (std::string(name) + ".safetensors");
    if (!std::filesystem::exists(file)) continue;
    const TokenInputs inputs = read_token_inputs(file);
    expect_same_tensors(WeightFile("folder", trace(*from_folder, inputs, options)),
                        WeightFile("gguf", trace(*from_gguf, inputs, options)));
    ++cases;
  }
  EXPECT_GE(cases, 1);
}

// Quantized files load and run, and their error is what their bits allow.
TEST_P(RoundTrip, QuantizedRunsOnEveryInstructionSet) {
  const ConversionSource source = open_source(model());
  if (!source.config) GTEST_SKIP() << source.unknown;
  auto file = test::golden_root() / GetParam() / "case-text.safetensors";
  if (!std::filesystem::exists(file)) file = test::golden_root() / GetParam() / "dense.safetensors";
  const TokenInputs inputs = read_token_inputs(file);
  const auto exact = trace(*test::load_model(model(), test::cpu_machines().front()), inputs, {});
  double before = 0;
  for (const DType type : {DType::Q8_0, DType::Q4_1, DType::Q4_0}) {
    ConvertOptions options;
    options.types.type = type;
    options.replace = true;
    const ConvertResult result = convert_to_gguf(source, gguf_, options);
    EXPECT_LT(result.bytes, result.source_bytes);
    for (const ConvertedTensor& tensor : result.tensors) {
      const bool language = tensor.role == "attention" || tensor.role == "mlp";
      const bool even = tensor.shape.back() % 32 == 0;
      if (language) {
        EXPECT_EQ(tensor.to == type, even) << tensor.name;
      }
      EXPECT_EQ(tensor.note == TypeNote::OddRows,
                is_quantized(type) && !even &&
                    (language || tensor.role == "embedding" || tensor.role == "head" ||
                     tensor.role == "adapters"))
          << tensor.name;
      if (tensor.role == "vision tower" || tensor.role == "gates" || tensor.role == "phantom" ||
          tensor.role == "projector" || tensor.role == "norms") {
        EXPECT_EQ(tensor.to, tensor.from) << tensor.name;
      }
      if (tensor.to == type) {
        EXPECT_LT(tensor.error.relative_rms(), type == DType::Q8_0 ? 0.01 : 0.2) << tensor.name;
      }
    }
    double kl = 0;
    for (const test::Machine& machine : test::cpu_machines()) {
      const auto traced = trace(*test::load_model(gguf_, machine), inputs, {});
      kl = trace_kl(exact, traced);
      EXPECT_GT(kl, 0) << machine.name();
      EXPECT_LT(kl, type == DType::Q8_0 ? 0.02 : 3.0) << machine.name();
    }
    EXPECT_GT(kl, before) << dtype_name(type);  // fewer bits, more error
    if (type == DType::Q8_0) before = kl;
  }
}

// What progress throws stops the work (Ctrl-C), and nothing is left of the target.
TEST(Convert, StoppedHalfway) {
  struct Stop {};
  const TempFolder folder;
  const auto model = test::golden_root() / "rrt/llama/model";
  convert_to_gguf(open_source(model), folder / "whole.gguf", {});
  ConvertOptions options;
  options.progress = [](int64_t done, int64_t total, const std::string& tensor) {
    EXPECT_LE(done, total);
    EXPECT_FALSE(tensor.empty());
    if (done > total / 2) throw Stop();
  };
  EXPECT_THROW(convert_to_gguf(open_source(model), folder / "m.gguf", options), Stop);
  EXPECT_THROW(convert_to_folder(open_source(folder / "whole.gguf"), folder / "back", options),
               Stop);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, ::testing::ElementsAre("whole.gguf"));
}

// Types and shapes that GGUF has no words for come back as they were.
// Fused matrices, names of its own, and buffers of old checkpoints that nothing reads.
TEST(Convert, GptNeoxComesBack) {
  const auto data = test::data_dir() / "parity/architectures";
  const WeightFile file = open_safetensors(data / "gpt_neox.safetensors").weights;
  const Json variant = load_json(data / "gpt_neox.json")["buffers"];
  const std::string prefix = variant["weights"].get<std::string>() + "/";
  const TempFolder folder;
  std::filesystem::create_directory(folder / "model");
  std::vector<TensorView> tensors;
  for (TensorView tensor : file.tensors()) {
    if (!tensor.name.starts_with(prefix)) continue;
    tensor.name = tensor.name.substr(prefix.size());
    tensors.push_back(tensor);
  }
  write_safetensors(folder / "model/model.safetensors", tensors);
  write_file_atomically(folder / "model/config.json", variant["config"].dump());
  convert_to_gguf(open_source(folder / "model"), folder / "m.gguf", {});
  convert_to_folder(open_source(folder / "m.gguf"), folder / "back", {});
  expect_same_model(folder / "model", folder / "back");
  const std::string buffer = "gpt_neox.layers.1.attention.bias";
  EXPECT_EQ(HfFolder::open(folder / "back").weights.get(buffer).type, DType::Bool);
  const std::vector<int64_t> ids = to_ints(file.get("ids"));
  TokenInputs inputs;
  inputs.ids.assign(ids.begin(), ids.end());
  for (const char* made : {"m.gguf", "back"}) {
    const auto model = test::load_model(folder / made, {"cpu", "scalar"});
    int found = 0;
    for (const TensorView& tensor : trace(*model, inputs, {})) {
      if (tensor.name != "logits") continue;
      EXPECT_LE(test::distance(to_floats(tensor), to_floats(file.get("logits/buffers"))), 2e-4);
      ++found;
    }
    EXPECT_EQ(found, 1) << made;
  }
}

TEST(Convert, OddTensorsAreKept) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "model");
  write_file_atomically(folder / "model/config.json", R"({"architectures": ["Unknown"]})");
  std::vector<TensorView> tensors =
      open_safetensors(test::data_dir() / "formats/types.safetensors").weights.tensors();
  tensors.push_back(make_view("five", DType::U8, {1, 2, 1, 2, 3}, std::vector<std::byte>(12)));
  write_safetensors(folder / "model/model.safetensors", tensors, {{"format", "pt"}, {"a", "b"}});
  convert_to_gguf(open_source(folder / "model"), folder / "m.gguf", {});
  convert_to_folder(open_source(folder / "m.gguf"), folder / "back", {});
  expect_same_model(folder / "model", folder / "back");
  const auto metadata = open_safetensors(folder / "back/model.safetensors").metadata;
  EXPECT_EQ(metadata.at("a"), "b");
  // A file that lies about a tensor's form.
  GgufFile file = open_gguf(folder / "m.gguf");
  std::vector<OutputTensor> copies;
  for (const TensorView& tensor : file.weights.tensors()) copies.push_back({tensor, tensor.type});
  for (const char* bad : {R"({"five": {"dtype": "U8", "shape": [13]}})",
                          R"({"five": {"dtype": "F64", "shape": [12]}})", R"({"five": 3})", "[]"}) {
    file.metadata.set(kTensorFormsKey, std::string(bad));
    write_gguf(folder / "bad.gguf", file.metadata, copies);
    try {
      open_source(folder / "bad.gguf");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(kTensorFormsKey)) << bad;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, RoundTrip, ::testing::ValuesIn(golden_models()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace reprise
