// Models in other forms: each error says what it is and what to do, and nothing else.
#include <gmock/gmock.h>

#include "formats/hf_folder.h"
#include "formats/model_source.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Foreign : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& entry : std::filesystem::directory_iterator(data_path("sharded")))
      std::filesystem::copy(entry.path(), folder_.path());
  }
  void remove_weights() const {
    for (const char* name : {"model.safetensors.index.json", "model-00001-of-00002.safetensors",
                             "model-00002-of-00002.safetensors"})
      std::filesystem::remove(folder_ / name);
  }
  // Of the folder: the same whether problems are collected or not, and one line.
  std::string refusal() const {
    const std::string text = error_of([&] { HfFolder::open(folder_.path()); });
    Problems problems;
    HfFolder::open(folder_.path(), &problems);
    EXPECT_EQ(problems.list(), std::vector<std::string>{text});
    EXPECT_THAT(text, HasSubstr(folder_.path().string()));
    EXPECT_THAT(text, Not(HasSubstr("\n")));
    return text;
  }
  std::string refusal_with(const std::string& name, const std::string& text = "x") {
    folder_.write(name, text);
    const std::string message = refusal();
    std::filesystem::remove(folder_ / name);
    return message;
  }
  std::string file_refusal(const std::string& name, const std::string& bytes) const {
    const auto path = folder_.write(name, bytes);
    const std::string text = error_of([&] { ModelSource::open(path); });
    EXPECT_THAT(text, HasSubstr(path.string()));
    return text;
  }
  const TempFolder folder_;
};

TEST_F(Foreign, WeightsInAnotherForm) {
  remove_weights();
  for (const char* name :
       {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"})
    EXPECT_THAT(refusal_with(name),
                AllOf(HasSubstr("PyTorch pickles"), HasSubstr(name),
                      HasSubstr("save_pretrained(FOLDER, safe_serialization=True)")));
  for (const char* name : {"consolidated.00.pth", "consolidated.safetensors"})
    EXPECT_THAT(refusal_with(name),
                AllOf(HasSubstr(name), HasSubstr("convert_llama_weights_to_hf.py")));
  EXPECT_THAT(refusal_with("model.onnx"), HasSubstr("ONNX Runtime (model.onnx)"));
  EXPECT_THAT(refusal_with("openvino_model.xml"), HasSubstr("OpenVINO (openvino_model.xml)"));
  EXPECT_THAT(refusal_with("weights.npz"), HasSubstr("MLX (weights.npz)"));
  EXPECT_THAT(refusal_with("adapters.safetensors"), HasSubstr("adapter of MLX"));
  EXPECT_THAT(refusal_with("tf_model.h5"), HasSubstr("from_tf=True"));
  EXPECT_THAT(refusal_with("flax_model.msgpack"), HasSubstr("from_flax=True"));
  EXPECT_THAT(refusal_with("model-q4_0.gguf"), HasSubstr("give the file: "));
  EXPECT_THAT(refusal_with("gptq_model-4bit.safetensors"),
              HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  std::filesystem::create_directories(folder_ / "onnx");
  EXPECT_THAT(refusal(), HasSubstr("ONNX Runtime (folder onnx)"));
}

// A folder of safetensors may hold other forms too.
TEST_F(Foreign, BesideSafetensorsTheyAreLeftOut) {
  for (const char* name : {"pytorch_model.bin", "model.onnx", "consolidated.00.pth", "tf_model.h5"})
    folder_.write(name, "x");
  EXPECT_EQ(HfFolder::open(folder_.path()).weights.tensors().size(), 3u);
}

TEST_F(Foreign, Adapters) {
  folder_.write("adapter_config.json",
                R"({"peft_type": "LORA", "base_model_name_or_path": "org/base"})");
  folder_.write("adapter_model.safetensors", "x");
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("a model and a PEFT adapter"), HasSubstr("merge the adapter")));
  remove_weights();
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("PEFT adapter (LORA) of org/base"), HasSubstr("merge_and_unload()")));
  folder_.write("adapter_config.json", "{");  // its own reader isn't here
  EXPECT_THAT(refusal(), HasSubstr("is a PEFT adapter, not a whole model"));
}

TEST_F(Foreign, QuantizedWeights) {
  const auto with = [&](const std::string& keys) {
    folder_.write("config.json", R"({"hidden_size": 2, )" + keys + "}");
    return refusal();
  };
  EXPECT_THAT(
      with(R"("quantization_config": {"quant_method": "gptq", "bits": 4})"),
      AllOf(HasSubstr("config.json: key 'quantization_config'"), HasSubstr("GPTQ in 4 bits"),
            HasSubstr("folder that isn't quantized, or a GGUF file")));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "awq", "bits": 4})"),
              HasSubstr("AWQ in 4 bits"));
  EXPECT_THAT(with(R"("quantization_config": {"quant_method": "fp8"})"), HasSubstr("by fp8"));
  EXPECT_THAT(with(R"("quantization": {"group_size": 64, "bits": 4},
                      "quantization_config": {"group_size": 64, "bits": 4})"),
              AllOf(HasSubstr("key 'quantization'"), HasSubstr("MLX in 4 bits"),
                    HasSubstr("--dequantize")));
  std::filesystem::remove(folder_ / "model.safetensors.index.json");
  std::filesystem::copy(data_path("types.safetensors"), folder_ / "model.safetensors");
  EXPECT_THAT(
      with(R"("quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true})"),
      AllOf(HasSubstr("bitsandbytes"), HasSubstr(".dequantize()")));
  EXPECT_THAT(refusal_with("quantize_config.json"), HasSubstr("GPTQ"));
  EXPECT_THAT(refusal_with("quant_config.json"), HasSubstr("AWQ"));
}

// What a model was loaded with when it was stored says nothing of what is stored.
TEST_F(Foreign, OrdinaryWeightsThatWereQuantizedWhileLoading) {
  folder_.write(
      "config.json",
      R"({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}})");
  EXPECT_EQ(HfFolder::open(folder_.path()).weights.tensors().size(), 3u);
  folder_.write("config.json", R"({"quantization_config": null})");
  EXPECT_EQ(HfFolder::open(folder_.path()).weights.tensors().size(), 3u);
}

TEST_F(Foreign, Files) {
  for (const auto& [magic, name] :
       {std::pair{"lmgg", "(ggml)"}, std::pair{"fmgg", "(ggmf)"}, std::pair{"tjgg", "(ggjt)"}})
    EXPECT_THAT(file_refusal("model.ggml", magic + std::string("\3\0\0\0more", 8)),
                AllOf(HasSubstr("from before GGUF"), HasSubstr(name),
                      HasSubstr("convert_llama_ggml_to_gguf.py")));
  EXPECT_THAT(file_refusal("a.bin", "algg1234"), HasSubstr("LoRA adapter"));
  EXPECT_THAT(file_refusal("pytorch_model.bin", std::string("PK\3\4", 4) + "1234"),
              HasSubstr("PyTorch pickle"));
  EXPECT_THAT(file_refusal("consolidated.00.pth", "12345678"), HasSubstr("PyTorch pickle"));
  EXPECT_THAT(file_refusal("x.safetensors", "12345678"), HasSubstr("give the folder"));
  EXPECT_THAT(file_refusal("model.onnx", "12345678"), HasSubstr("ONNX Runtime"));
  EXPECT_THAT(file_refusal("weights.npz", "PK\3\4 5678"), HasSubstr("MLX"));
  EXPECT_THAT(file_refusal("model.gguf", "version https://git-lfs.github.com/spec/v1\n"),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(file_refusal("whatever", "12345678"), HasSubstr("does not begin with 'GGUF'"));
  folder_.write("model-00001-of-00002.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(error_of([&] { HfFolder::open(folder_.path()); }), HasSubstr("git lfs pull"));
}

}  // namespace
}  // namespace reprise
