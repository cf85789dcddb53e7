// Models that are damaged, incomplete or contradict themselves: a clear error, on every command.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <limits>

#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class DamagedModel : public ::testing::Test {
 protected:
  void SetUp() override { copy_model("rrt/llama", model_); }
  // Every command that loads the whole model must fail with this message.
  void expect_error(const ::testing::Matcher<std::string>& message) {
    const std::string out = (folder_ / "out.safetensors").string();
    const std::string text = test_data("engine/make.py").string();
    const std::string inputs = test_data("golden/rrt/llama/dense.safetensors").string();
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"run", model_.string(), "--prompt", "a"},
          {"inspect", model_.string()},
          {"eval", model_.string(), "--perplexity", text, "--ctx", "64"},
          {"trace", model_.string(), "--inputs", inputs, "--out", out}}) {
      const ProgramResult result = run_program(arguments);
      EXPECT_EQ(result.exit_code, 1) << arguments[0] << ": " << result.out;
      EXPECT_THAT(result.err, AllOf(StartsWith("reprise: error: "), message)) << arguments[0];
    }
    EXPECT_FALSE(std::filesystem::exists(out));
  }
  TempFolder folder_;
  const std::filesystem::path model_ = folder_ / "model";
  const std::filesystem::path weights_ = folder_ / "model/model.safetensors";
};

TEST_F(DamagedModel, WeightsCutShort) {
  cut_file(weights_, std::filesystem::file_size(weights_) - 100);
  expect_error(HasSubstr("model.safetensors"));
  cut_file(weights_, 5);
  expect_error(HasSubstr("model.safetensors"));
}

TEST_F(DamagedModel, ConfigIsNoJson) {
  cut_file(model_ / "config.json", 100);
  expect_error(HasSubstr("config.json"));
}

TEST_F(DamagedModel, ConfigLacksAKey) {
  edit_json(model_ / "config.json", [](Json& json) { json.erase("num_attention_heads"); });
  expect_error(AllOf(HasSubstr("config.json"), HasSubstr("num_attention_heads")));
}

TEST_F(DamagedModel, ConfigOfAnotherType) {
  edit_json(model_ / "config.json", [](Json& json) { json["hidden_size"] = "many"; });
  expect_error(AllOf(HasSubstr("hidden_size"), HasSubstr("many")));
}

TEST_F(DamagedModel, TensorOfAnotherShape) {
  edit_tensors(weights_, [](TensorView& tensor) {
    if (tensor.name == "model.layers.2.mlp.up_proj.weight")
      std::swap(tensor.shape[0], tensor.shape[1]);
  });
  expect_error(AllOf(HasSubstr("model.layers.2.mlp.up_proj.weight"), HasSubstr("[64, 112]"),
                     HasSubstr("[112, 64]")));
}

TEST_F(DamagedModel, AllMissingAndUnexpectedTensorsAtOnce) {
  edit_tensors(weights_, [](TensorView& tensor) {
    if (tensor.name == "model.norm.weight") tensor.name = "model.nrom.weight";
    if (tensor.name == "model.layers.0.self_attn.q_proj.weight") tensor.name = "extra";
  });
  expect_error(AllOf(HasSubstr("'model.norm.weight' is missing"),
                     HasSubstr("'model.layers.0.self_attn.q_proj.weight' is missing"),
                     HasSubstr("'model.nrom.weight' is unexpected"), HasSubstr("'extra'")));
}

TEST_F(DamagedModel, MissingShard) {
  Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
  for (const TensorView& tensor : open_safetensors(weights_).weights.tensors()) {
    index["weight_map"][tensor.name] = "model-00001-of-00002.safetensors";
  }
  index["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors";
  std::filesystem::rename(weights_, model_ / "model-00001-of-00002.safetensors");
  write_file_atomically(model_ / "model.safetensors.index.json", index.dump());
  expect_error(HasSubstr("model-00002-of-00002.safetensors"));
}

TEST_F(DamagedModel, NoWeightsAtAll) {
  std::filesystem::remove(weights_);
  expect_error(HasSubstr("model.safetensors"));
}

TEST_F(DamagedModel, AFileThatIsNoModel) {
  std::filesystem::remove_all(model_);
  write_file_atomically(model_, "not a GGUF file, whatever its name says");
  expect_error(HasSubstr(model_.string()));
}

TEST_F(DamagedModel, AFifoIsNotWaitedFor) {
  std::filesystem::remove_all(model_);
  ASSERT_EQ(mkfifo(model_.c_str(), 0600), 0);
  expect_error(AllOf(HasSubstr(model_.string()), HasSubstr("regular file")));
}

// Lengths and counts far beyond the file: refused before memory is asked for.
TEST_F(DamagedModel, AbsurdCounts) {
  const auto number = [](uint64_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  const auto expect_refused = [&](const std::string& file, const std::string& message) {
    const ProgramResult result =
        run_program({"run", file, "--prompt", "a"}, {.memory = int64_t{1} << 30});
    EXPECT_EQ(result.exit_code, 1) << message;
    EXPECT_THAT(result.err,
                AllOf(StartsWith("reprise: error: "), HasSubstr(file), HasSubstr(message)));
  };
  const std::string gguf = (folder_ / "absurd.gguf").string();
  const std::string head = std::string("GGUF\3\0\0\0", 8);
  for (const uint64_t count : {uint64_t{1} << 40, uint64_t{1} << 62, ~uint64_t{0}}) {
    write_file_atomically(gguf, head + number(count) + number(0) + std::string(64, '\0'));
    expect_refused(gguf, "tensors");
    write_file_atomically(gguf, head + number(0) + number(count) + std::string(64, '\0'));
    expect_refused(gguf, "metadata");
    write_file_atomically(gguf, head + number(0) + number(1) + number(count) + "abc");
    expect_refused(gguf, "metadata");
    write_file_atomically(weights_, number(count) + "{}");
    expect_refused(model_.string(), "header length");
  }
}

TEST_F(DamagedModel, NanWeights) {
  edit_tensors(weights_, [](TensorView& tensor) {
    if (tensor.name != "model.norm.weight") return;
    std::vector<float> values = to_floats(tensor);
    values[5] = std::numeric_limits<float>::quiet_NaN();
    tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
  });
  const auto nan_error = AllOf(StartsWith("reprise: error: "), HasSubstr("NaN"),
                               HasSubstr("model.safetensors: tensor 'model.norm.weight'"));
  const std::string model = model_.string();
  const std::string out = (folder_ / "out.safetensors").string();
  EXPECT_THAT(run_program({"run", model, "--prompt", "a"}).err, nan_error);
  EXPECT_THAT(run_program({"eval", model, "--perplexity", test_data("engine/make.py").string(),
                           "--ctx", "64"})
                  .err,
              nan_error);
  EXPECT_THAT(run_program({"trace", model, "--inputs",
                           test_data("golden/rrt/llama/dense.safetensors").string(), "--out", out})
                  .err,
              nan_error);
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(DamagedModel, TokenizerIsDamaged) {
  cut_file(model_ / "tokenizer.json", 3000);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"run", model_.string(), "--prompt", "a"},
        {"tokenize", model_.string(), "--text", "a"}}) {
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr("tokenizer.json"));
  }
}

}  // namespace
}  // namespace reprise::testing
