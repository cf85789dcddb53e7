// Every way a model takes through the program: folders as transformers 5 and 4 write them, GGUF files by
// llama.cpp's own converter and by this program, and folders made of either. The same logits, ids and
// defaults as transformers, over the models of tests/data/routes (made by make.py there).
// scripts/check_routes.py has transformers load the folders that are made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "convert/convert.h"
#include "convert/looped/convert_looped.h"
#include "formats/safetensors.h"
#include "model/config/folder_config.h"
#include "support/data_folders.h"
#include "support/error_of.h"
#include "support/golden.h"
#include "support/paths.h"
#include "support/test_models.h"
#include "text/tokenizer/tokenizer_export.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr double kTolerance = 2e-4;

fs::path root() { return data_dir() / "routes"; }

class Routes : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    want_ = load_json(model() / "want.json");
    const WeightFile file = open_safetensors(model() / "want.safetensors").weights;
    ids_ = to_ints(file.get("input_ids"));
    logits_ = to_floats(file.get("logits"));
  }
  fs::path model() const { return root() / GetParam(); }
  fs::path folder() const { return model() / "folder"; }
  fs::path gguf() const { return model() / "model.gguf"; }

  // Of the last tokens, as many as there are in want.safetensors.
  std::vector<float> logits_of(const fs::path& path) const {
    const auto loaded = load_model(path, {"cpu", "scalar"});
    TokenInputs inputs;
    inputs.ids.assign(ids_.begin(), ids_.end());
    TraceOptions options;
    options.steps = 0;
    for (const TensorView& tensor : trace(*loaded, inputs, options)) {
      if (tensor.name != "logits") continue;
      const std::vector<float> all = to_floats(tensor);
      return {all.end() - std::ssize(logits_), all.end()};
    }
    ADD_FAILURE() << "no logits";
    return {};
  }

  // Logits as `logits`, ids as those of a folder or of llama.cpp's file, and what a model starts and
  // ends with.
  void expect_same(const fs::path& path, const std::vector<float>& logits, bool of_gguf) const {
    SCOPED_TRACE(path.string());
    EXPECT_LE(distance(logits_of(path), logits), kTolerance);
    const auto loaded = load_model(path, {"cpu", "scalar"});
    const Tokenizer& tokenizer = loaded->tokenizer();
    const char* key = of_gguf && want_.contains("gguf_texts") ? "gguf_texts" : "texts";
    for (const Json& text : want_[key])
      EXPECT_EQ(tokenizer.encode(text[0].get<std::string>()), text[1].get<std::vector<int32_t>>())
          << text[0];
    EXPECT_EQ(loaded->config().bos_token, want_["bos"].is_null() ? -1 : want_["bos"].get<int>());
    std::vector<int32_t> ends = want_["ends"].get<std::vector<int32_t>>();
    if (of_gguf) ends.resize(1);  // it has one
    std::ranges::sort(ends);
    EXPECT_EQ(loaded->end_tokens(), ends);
    const auto first = tokenizer_from_model(folder());
    EXPECT_EQ(tokenizer.chat_template(), first->chat_template());
    EXPECT_EQ(tokenizer.ids().bos, first->ids().bos);
    EXPECT_EQ(tokenizer.ids().eos, first->ids().eos);
    const std::string text = "Hello";
    EXPECT_EQ(tokenizer.encode(text, {.add_special = true}),
              first->encode(text, {.add_special = true}));
  }

  // Whether llama.cpp's file is another model than the folder, as it says nothing of a part of it.
  bool is_other() const { return want_.contains("loses"); }
  std::vector<float> gguf_logits() const { return is_other() ? logits_of(gguf()) : logits_; }

  Json want_;
  std::vector<int64_t> ids_;
  std::vector<float> logits_;
  const reprise::testing::TempFolder temp_;
};

TEST_P(Routes, FoldersOfTransformers) {
  expect_same(folder(), logits_, false);
  const fs::path form4 = temp_ / "form4";
  fs::copy(folder(), form4);
  fs::copy_file(model() / "config4.json", form4 / "config.json",
                fs::copy_options::overwrite_existing);
  expect_same(form4, logits_, false);
}

TEST_P(Routes, OwnGgufAndBack) {
  convert_to_gguf(open_source(folder()), temp_ / "own.gguf", {});
  expect_same(temp_ / "own.gguf", logits_, false);
  convert_to_folder(open_source(temp_ / "own.gguf"), temp_ / "back", {});
  for (const auto& entry : fs::directory_iterator(folder())) {
    if (entry.path().extension() == ".safetensors") continue;
    EXPECT_EQ(read_file(entry.path()), read_file(temp_ / "back" / entry.path().filename()))
        << entry.path();
  }
}

TEST_P(Routes, LlamaCppsGguf) {
  expect_same(gguf(), gguf_logits(), true);
  EXPECT_EQ(distance(gguf_logits(), logits_) > kTolerance, is_other());
}

TEST_P(Routes, LlamaCppsGgufToAFolder) {
  const fs::path made = temp_ / "made";
  const ConvertResult result = convert_to_folder(open_source(gguf()), made, {});
  expect_same(made, gguf_logits(), true);
  convert_to_gguf(open_source(made), temp_ / "again.gguf", {});
  expect_same(temp_ / "again.gguf", gguf_logits(), true);

  const Json config = load_json(made / "config.json"), first = load_json(folder() / "config.json");
  EXPECT_EQ(config["torch_dtype"], first["dtype"]);
  for (const char* key : {"bos_token_id", "pad_token_id"})
    EXPECT_EQ(config[key], first[key]) << key;
  const Json generation = load_json(made / "generation_config.json");
  for (const auto& [key, value] : want_["generation"].items()) EXPECT_EQ(generation[key], value);
  // Weights are the folder's: nothing is lost where norms are F32.
  if (config["architectures"] != first["architectures"]) return;
  for (const char* key : {"model_type", "hidden_size", "vocab_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings", "tie_word_embeddings",
                          "rms_norm_eps", "layer_norm_eps", "head_dim"}) {
    if (!config.contains(key) || !first.contains(key)) continue;
    EXPECT_EQ(config[key], first[key]) << key;
  }
  const WeightFile weights = open_safetensors(made / "model.safetensors").weights;
  for (const TensorView& tensor :
       open_safetensors(folder() / "model.safetensors").weights.tensors()) {
    const std::vector<float> found = to_floats(weights.get(tensor.name));
    EXPECT_LE(distance(found, to_floats(tensor)), 1e-6) << tensor.name;
  }
  EXPECT_EQ(result.notes.size(), GetParam() == "nanbeige" ? 1u : 0u);
}

TEST_P(Routes, QuantizedGgufToAFolder) {
  ConvertOptions options;
  set_type(options.types, "q8_0", "--type");
  convert_to_gguf(open_source(gguf()), temp_ / "q8.gguf", options);
  const GgufFile quantized = open_gguf(temp_ / "q8.gguf");
  EXPECT_FALSE(quantized.metadata.has("reprise.config"));
  const bool some = std::ranges::any_of(  // rows of 16 can't be
      quantized.weights.tensors(), [](const TensorView& t) { return t.type == DType::Q8_0; });
  const auto type_of = [&](const char* name) {
    return load_json(temp_ / name / "config.json")["torch_dtype"];
  };
  convert_to_folder(open_source(temp_ / "q8.gguf"), temp_ / "f32", {});
  EXPECT_EQ(type_of("f32"), some ? Json("float32") : load_json(folder() / "config.json")["dtype"]);
  EXPECT_LE(distance(logits_of(temp_ / "f32"), logits_of(temp_ / "q8.gguf")), kTolerance);
  for (const auto& [type, name] : {std::pair{"bf16", "bfloat16"}, std::pair{"f16", "float16"}}) {
    ConvertOptions half;
    set_type(half.types, type, "--type");
    convert_to_folder(open_source(temp_ / "q8.gguf"), temp_ / type, half);
    EXPECT_EQ(type_of(type), name);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Routes, ::testing::ValuesIn(folders_in(root())),
                         [](const auto& info) { return test_name(info.param); });

// ---- What has no file in tests/data/routes.

std::vector<float> all_logits(const fs::path& path, const std::vector<int32_t>& ids) {
  const auto loaded = load_model(path, {"cpu", "scalar"});
  TokenInputs inputs;
  inputs.ids = ids;
  TraceOptions options;
  options.steps = 0;
  for (const TensorView& tensor : trace(*loaded, inputs, options))
    if (tensor.name == "logits") return to_floats(tensor);
  return {};
}

const std::vector<int32_t> kIds = {5, 9, 14, 3, 20, 11, 7, 16};

// Every file of the package gguf in tests/data/parity becomes a folder with the same logits.
TEST(FolderOf, EveryKeyOfAGgufFile) {
  const reprise::testing::TempFolder temp;
  int files = 0;
  for (const auto& entry : fs::directory_iterator(data_dir() / "parity/architectures")) {
    if (entry.path().extension() != ".gguf") continue;
    SCOPED_TRACE(entry.path().filename().string());
    const fs::path folder = temp / entry.path().stem().string();
    convert_to_folder(open_source(entry.path()), folder, {});
    EXPECT_FALSE(fs::exists(folder / "tokenizer.json"));  // it has none
    EXPECT_LE(distance(all_logits(folder, kIds), all_logits(entry.path(), kIds)), kTolerance);
    ++files;
  }
  EXPECT_GE(files, 25);
}

// Looped, with adapters whose rows are permuted as their matrices' are.
TEST(FolderOf, ALoopedModelInLlamaCppsForm) {
  const reprise::testing::TempFolder temp;
  LoopOptions loop;
  loop.rank = 4;
  loop.start = LoopStart::Average;
  for (const char* name : {"llama2", "gemma", "gpt_neox"}) {
    SCOPED_TRACE(name);
    const fs::path looped = temp / (std::string(name) + ".gguf"), folder = temp / name;
    convert_looped(open_source(root() / name / "model.gguf"), looped, /*gguf=*/true, loop, {});
    convert_to_folder(open_source(looped), folder, {});
    EXPECT_LE(distance(all_logits(folder, kIds), all_logits(looped, kIds)), kTolerance);
    EXPECT_EQ(load_json(folder / "config.json")["reprise"]["scheme"], "recursive");
  }
}

class FolderKeys : public ::testing::Test {
 protected:
  // config.json of a file with other keys.
  Json config_of(const char* name, const std::vector<std::pair<std::string, GgufValue>>& keys,
                 const std::vector<TensorView>& more = {}) {
    GgufFile file = open_gguf(root() / name / "model.gguf");
    for (const auto& [key, value] : keys) file.metadata.set(key, value);
    std::vector<TensorView> tensors = file.weights.tensors();
    tensors.insert(tensors.end(), more.begin(), more.end());
    file.weights = WeightFile("m.gguf", tensors);
    return folder_config(file).config;
  }
  // What a whole conversion of such a file ends with.
  std::string refusal(const char* name,
                      const std::vector<std::pair<std::string, GgufValue>>& keys) {
    GgufFile file = open_gguf(root() / name / "model.gguf");
    for (const auto& [key, value] : keys) file.metadata.set(key, value);
    std::vector<GgufTensor> tensors;
    for (const TensorView& tensor : file.weights.tensors())
      tensors.push_back({tensor, tensor.type});
    write_gguf(temp_ / "changed.gguf", file.metadata, tensors);
    const std::string text = error_of(
        [&] { convert_to_folder(open_source(temp_ / "changed.gguf"), temp_ / "out", {}); });
    EXPECT_FALSE(fs::exists(temp_ / "out"));
    return text;
  }
  const reprise::testing::TempFolder temp_;
};

TEST_F(FolderKeys, ALlamaWithWindowsIsAMistral) {
  const Json config = config_of("llama2", {{"llama.attention.sliding_window", uint32_t{8}}});
  EXPECT_EQ(config["architectures"][0], "MistralForCausalLM");
  EXPECT_EQ(config["model_type"], "mistral");
  EXPECT_EQ(config["sliding_window"], 8);
  EXPECT_FALSE(config.contains("layer_types"));
  EXPECT_THAT(refusal("llama-yarn", {{"llama.attention.sliding_window", uint32_t{8}}}),
              HasSubstr("beside biases"));
  EXPECT_THAT(refusal("gemma", {{"gemma.attention.sliding_window", uint32_t{8}}}),
              AllOf(HasSubstr("GemmaForCausalLM"), HasSubstr("has none")));
}

TEST_F(FolderKeys, QwensWindows) {
  const Json config = config_of("qwen2", {{"qwen2.attention.sliding_window", uint32_t{8}}});
  EXPECT_EQ(config["use_sliding_window"], true);
  EXPECT_EQ(config["max_window_layers"], 0);
  EXPECT_EQ(config_of("qwen2", {})["use_sliding_window"], false);
}

// Llama 3's rule is found again in the factors that it comes to.
TEST_F(FolderKeys, Llama3sRope) {
  const Json scaling = config_of("llama3", {})["rope_scaling"];
  EXPECT_EQ(scaling, Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0,
                                     "original_max_position_embeddings": 64})"));
  // Factors of no rule stay as they are, and none changes nothing.
  const auto with = [&](const std::vector<float>& factors) {
    return config_of("llama2", {}, {make_view("rope_freqs.weight", {4}, factors)});
  };
  const Json other = with({1, 3, 2, 8})["rope_scaling"];
  EXPECT_EQ(other["rope_type"], "longrope");
  EXPECT_EQ(other["short_factor"], Json({1.0, 3.0, 2.0, 8.0}));
  EXPECT_EQ(other["short_factor"], other["long_factor"]);
  EXPECT_FALSE(with({1, 1, 1, 1}).contains("rope_scaling"));
}

// A turn's end counts where it is a token of its own.
TEST_F(FolderKeys, EndsOfAnswers) {
  const char* eot = "tokenizer.ggml.eot_token_id";
  EXPECT_EQ(config_of("llama2", {{eot, uint32_t{1}}})["eos_token_id"], Json({2, 1}));
  EXPECT_EQ(config_of("llama2", {{eot, uint32_t{100}}})["eos_token_id"], 2);
}

TEST_F(FolderKeys, SeveralChatTemplates) {
  GgufMetadata metadata = open_gguf(root() / "qwen2/model.gguf").metadata;
  metadata.set("tokenizer.chat_templates", std::vector<std::string>{"tools"});
  metadata.set("tokenizer.chat_template.tools", GgufValue(std::string("with tools")));
  const auto files = export_tokenizer(metadata, "qwen2");
  const Json list = Json::parse(files.at("tokenizer_config.json"))["chat_template"];
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["name"], "default");
  EXPECT_EQ(list[1]["template"], "with tools");
}

TEST_F(FolderKeys, WhatNoFolderCanSay) {
  EXPECT_THAT(refusal("qwen2", {{"tokenizer.ggml.pre", std::string("llama-bpe")}}),
              AllOf(HasSubstr("key 'tokenizer.ggml.pre'"), HasSubstr("type qwen2")));
  EXPECT_THAT(refusal("qwen3", {{"tokenizer.ggml.pre", std::string("nobody-knows")}}),
              HasSubstr("unknown pre-tokenizer 'nobody-knows'"));
  EXPECT_THAT(refusal("llama2", {{"tokenizer.ggml.remove_extra_whitespaces", true}}),
              HasSubstr("key 'tokenizer.ggml.remove_extra_whitespaces'"));
  EXPECT_THAT(refusal("llama2", {{"general.type", std::string("adapter")}}),
              AllOf(HasSubstr("key 'general.type'"), HasSubstr("merge it")));
  EXPECT_THAT(refusal("llama2", {{"general.architecture", std::string("clip")}}),
              HasSubstr("mmproj"));
}

}  // namespace
}  // namespace reprise::test
