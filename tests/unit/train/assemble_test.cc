// A TroL or Phantom around a language model: the backbone's own values, whatever file they come
// from, and an ordinary model as the result.
#include "train/recipe/assemble.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/factory.h"
#include "backend/train_backend.h"
#include "base/json.h"
#include "engine/loaded_model.h"
#include "formats/safetensors.h"
#include "model/load.h"
#include "support/golden.h"
#include "support/test_models.h"
#include "support/tiny_models.h"
#include "text/tokenizer/tokenizer_gguf.h"
#include "text/tokenizer/tokenizer_json.h"
#include "trace/trace.h"
#include "train/trainer.h"

namespace reprise {
namespace {

using reprise::testing::TempFolder;
using ::testing::HasSubstr;

class Assemble : public ::testing::Test {
 protected:
  void SetUp() override {
    reprise::testing::copy_model("rrt/llama", folder_ / "lm");
    recipe_.path = folder_ / "recipe.yaml";
    recipe_.chat_format = "chatml-image";
    recipe_.assembly.backbone = folder_ / "lm";
    recipe_.assembly.scheme = "trol";
    recipe_.assembly.vision_from = test::source_dir() / "models/tiny-trol.gguf";
  }

  // The same model as llama.cpp would hold it: its names, its keys, rows of q and k
  // interleaved (Llama, InternLM2) or norms with 1 added (Gemma).
  std::filesystem::path gguf(const std::string& architecture = "llama") {
    const bool interleaved = architecture != "gemma";
    const WeightFile weights = open_safetensors(folder_ / "lm/model.safetensors").weights;
    const ModelConfig config = config_from_json(load_json(folder_ / "lm/config.json"), "config");
    const TextConfig& text = config.text;
    GgufMetadata metadata;
    metadata.set("general.architecture", architecture);
    const auto number = [&](const char* key, int64_t value) {
      metadata.set(architecture + "." + key, GgufValue(static_cast<uint32_t>(value)));
    };
    number("block_count", text.layers);
    number("embedding_length", text.d);
    number("feed_forward_length", text.ffn);
    number("attention.head_count", text.heads);
    number("attention.head_count_kv", text.kv_heads);
    number("attention.key_length", text.head_dim);
    number("context_length", text.max_position);
    metadata.set(architecture + ".attention.layer_norm_rms_epsilon",
                 GgufValue(text.final_norm.eps));
    metadata.set(architecture + ".rope.freq_base",
                 GgufValue(static_cast<float>(text.ropes[0].theta)));
    TokenizerSpec spec = spec_from_files(tokenizer_files_from_folder(folder_ / "lm"));
    write_tokenizer(spec, text.vocab, metadata);
    metadata.set("tokenizer.ggml.eos_token_id", GgufValue(uint32_t{2}));

    std::vector<GgufTensor> tensors;
    const TensorNames from = tensor_names(config, false), to = tensor_names(config, true);
    const auto add = [&](const std::string& source, const std::string& name, int heads) {
      const TensorView& view = weights.get(source + ".weight");
      std::vector<float> values = to_floats(view);
      if (!interleaved && source.ends_with("norm"))
        for (float& value : values) value += 1;
      if (heads > 0 && interleaved) {  // row 2 i + j of a head is the original's j hd/2 + i
        const std::vector<float> original = values;
        const int64_t in = view.shape[1], hd = text.head_dim;
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t i = 0; i < hd / 2; ++i)
            for (int64_t j = 0; j < 2; ++j)
              std::copy_n(original.begin() + (h * hd + j * hd / 2 + i) * in, in,
                          values.begin() + (h * hd + 2 * i + j) * in);
      }
      tensors.push_back({make_view(name + ".weight", view.shape, values), DType::F32});
    };
    for (const char* key : {"embed", "head", "final_norm"})
      if (weights.find(from.of(key) + ".weight")) add(from.of(key), to.of(key), 0);
    for (int layer = 0; layer < text.layers; ++layer)
      for (const std::string key :
           {"attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"})
        add(from.of(key, layer), to.of(key, layer),
            key == "q"   ? text.heads
            : key == "k" ? text.kv_heads
                         : 0);
    write_gguf(folder_ / "lm.gguf", metadata, tensors);
    return folder_ / "lm.gguf";
  }

  std::map<std::string, std::vector<float>> values_of(const Assembled& parts) {
    std::map<std::string, std::vector<float>> values;
    const auto backend = make_cpu_backend({.threads = 1});
    Model::create(parts.config, *backend,
                  [&](const TensorSlot& slot) { return values[slot.name] = parts.values(slot); });
    return values;
  }

  std::string error() {
    try {
      assemble(recipe_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  TempFolder folder_;
  Recipe recipe_;
};

TEST_F(Assemble, TheBackboneKeepsItsValuesWhateverItsFile) {
  const Assembled from_folder = assemble(recipe_);
  const auto values = values_of(from_folder);
  const WeightFile own = open_safetensors(folder_ / "lm/model.safetensors").weights;
  for (const TensorView& view : own.tensors()) {
    std::vector<float> found = values.at("language_model." + view.name);
    const std::vector<float> expected = to_floats(view);
    if (view.name == "model.embed_tokens.weight" || view.name == "lm_head.weight") {
      EXPECT_EQ(found.size(), expected.size() + 64) << "a row for the placeholder";
      found.resize(expected.size());
    }
    EXPECT_EQ(found, expected) << view.name;
  }
  EXPECT_EQ(from_folder.config.image_token, 320);
  EXPECT_EQ(from_folder.config.text.vocab, 321);
  EXPECT_EQ(values.at("trol_gating.weight"), std::vector<float>(64));
  const auto tower = open_gguf(recipe_.assembly.vision_from);
  const char* const name = "vision_model.encoder.layers.2.mlp.fc1.weight";
  EXPECT_EQ(values.at(name), to_floats(tower.weights.get(name)));

  recipe_.assembly.backbone = gguf();
  const Assembled from_gguf = assemble(recipe_);
  EXPECT_EQ(from_gguf.config.image_token, 320);
  EXPECT_FALSE(from_gguf.config.text.ropes[0].interleaved);
  EXPECT_EQ(values_of(from_gguf), values);
}

// Of which llama.cpp has the three matrices apart.
TEST_F(Assemble, InternLm2FromGguf) {
  recipe_.assembly.backbone = gguf("internlm2");
  const Assembled parts = assemble(recipe_);
  EXPECT_FALSE(parts.config.text.fused_qkv);
  EXPECT_FALSE(parts.config.text.qkv_bias);
  EXPECT_FALSE(parts.config.text.ropes[0].interleaved);
  const auto values = values_of(parts);
  const WeightFile own = open_safetensors(folder_ / "lm/model.safetensors").weights;
  const TensorNames names = tensor_names(parts.config, /*gguf_style=*/false);
  for (const char* key : {"q", "k", "v", "o", "gate"})
    EXPECT_EQ(values.at(names.of(key, 1) + names.matrix_suffix + ".weight"),
              to_floats(own.get(TensorNames().of(key, 1) + ".weight")))
        << key;
}

TEST_F(Assemble, NormsOfOnePlusTheWeightAreTheSameFromEveryFile) {
  std::filesystem::remove_all(folder_ / "lm");
  reprise::testing::copy_model("rrt/gemma", folder_ / "lm");
  auto values = values_of(assemble(recipe_));
  const WeightFile own = open_safetensors(folder_ / "lm/model.safetensors").weights;
  const std::string norm = "model.layers.1.input_layernorm.weight";
  EXPECT_EQ(values.at("language_model." + norm), to_floats(own.get(norm)));
  recipe_.assembly.backbone = gguf("gemma");
  for (const auto& [name, found] : values_of(assemble(recipe_))) {
    const std::vector<float>& expected = values.at(name);
    ASSERT_EQ(found.size(), expected.size()) << name;
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], expected[i], 2e-7) << name;  // (1 + w) - 1 is rounded
  }
}

// LayerNorms with biases, and a llama.cpp file whose fused rows are in another order than a
// folder's: the new model's config says so.
TEST_F(Assemble, GptNeoxKeepsItsBiasesAndItsOrderOfRows) {
  const Json json = test::tiny_neox_config({.vocab = 320});
  const ModelConfig config = config_from_json(json, "config");
  const TextConfig& text = config.text;
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("gptneox"));
  const auto set = [&](const std::string& key, GgufValue value) {
    metadata.set("gptneox." + key, std::move(value));
  };
  set("block_count", static_cast<uint32_t>(text.layers));
  set("embedding_length", static_cast<uint32_t>(text.d));
  set("feed_forward_length", static_cast<uint32_t>(text.ffn));
  set("attention.head_count", static_cast<uint32_t>(text.heads));
  set("context_length", static_cast<uint32_t>(text.max_position));
  set("attention.layer_norm_epsilon", 1e-5f);
  set("use_parallel_residual", true);
  set("rope.dimension_count", uint32_t{6});
  std::vector<GgufTensor> tensors;
  const TensorNames folder = tensor_names(config, false), file = tensor_names(config, true);
  const auto add = [&](const std::string& name, const TensorSlot& slot) {
    tensors.push_back({make_view(name, slot.shape, test::tiny_values(slot)), DType::F32});
  };
  std::map<std::string, std::string> names;  // in a folder -> in the file
  for (const char* key : {"embed", "head", "final_norm"})
    for (const char* end : {".weight", ".bias"}) names[folder.of(key) + end] = file.of(key) + end;
  for (int layer = 0; layer < text.layers; ++layer) {
    std::vector<std::string> in_file;
    Block block;
    block.visit_tensors(text, file, layer,
                        [&](const TensorSlot& slot) { in_file.push_back(slot.name); });
    size_t i = 0;
    block.visit_tensors(text, folder, layer,
                        [&](const TensorSlot& slot) { names[slot.name] = in_file[i++]; });
  }
  const auto backend = make_cpu_backend({.threads = 1});
  std::map<std::string, std::vector<float>> expected;
  Model::create(config, *backend, [&](const TensorSlot& slot) {
    add(names.at(slot.name), slot);
    return expected[slot.name] = test::tiny_values(slot);
  });
  write_gguf(folder_ / "neox.gguf", metadata, tensors);

  recipe_.assembly.backbone = folder_ / "neox.gguf";
  recipe_.tokenizer = folder_ / "lm";
  const Assembled parts = assemble(recipe_);
  EXPECT_TRUE(parts.config.text.fused_qkv);
  EXPECT_FALSE(parts.config.text.grouped_qkv);
  const auto values = values_of(parts);
  for (auto& [name, own] : expected) {
    std::vector<float> found = values.at("language_model." + name);
    if (found.size() == own.size() + static_cast<size_t>(text.d)) found.resize(own.size());
    EXPECT_EQ(found, own) << name;
  }
}

TEST_F(Assemble, StepOneLeavesTheLanguageModelAndExportsAnOrdinaryModel) {
  const auto backend = test::recording_torch();
  if (!backend) GTEST_SKIP() << "the torch backend is not built";
  recipe_.assembly.backbone = gguf();
  recipe_.train.push_back({});
  recipe_.train[0].generator = recipe_.train[0].wrong_answers = "easy-vqa";
  recipe_.steps = 2;
  recipe_.batch = 1;
  recipe_.questions_per_image = 2;
  for (const std::string scheme : {"trol", "phantom"}) {
    SCOPED_TRACE(scheme);
    recipe_.assembly.scheme = scheme;
    if (scheme == "phantom") recipe_.loss = "sft+po";
    recipe_.train_only = {"vision_proj.*", scheme == "trol" ? "trol_gating.*" : "*phantom*"};
    TrainOptions options;
    options.output = folder_ / scheme;
    Trainer trainer(recipe_, *backend, options);
    EXPECT_TRUE(trainer.run());
    LoadedModelOptions engine_options;
    engine_options.model = folder_ / scheme / "model.gguf";
    const auto loaded = LoadedModel::load(engine_options);
    EXPECT_EQ(loaded->config().scheme, scheme);
    EXPECT_EQ(loaded->chat_format()->name, "chatml-image");
    EXPECT_EQ(loaded->tokenizer().find("<image>"), 320);
    EXPECT_EQ(loaded->end_tokens(), std::vector<int32_t>{2});
    // Traversal off, a TroL is the language model it was built around.
    if (scheme != "trol") continue;
    TokenInputs inputs;
    inputs.where = "test";
    inputs.ids = {20, 30, 40, 50, 60};
    engine_options.model = folder_ / "lm";
    const auto plain = LoadedModel::load(engine_options);
    TraceOptions off;
    off.plan.set("passes", 1);
    std::vector<float> logits[2];
    for (const TensorView& tensor : trace(*loaded, inputs, off))
      if (tensor.name == "logits") logits[0] = to_floats(tensor);
    for (const TensorView& tensor : trace(*plain, inputs, {}))
      if (tensor.name == "logits") logits[1] = to_floats(tensor);
    ASSERT_EQ(logits[0].size(), 5u * 321);
    for (size_t row = 0; row < 5; ++row)
      for (size_t i = 0; i < 320; ++i)
        ASSERT_NEAR(logits[0][row * 321 + i], logits[1][row * 320 + i], 1e-4);
  }
}

TEST_F(Assemble, ErrorsNameRecipeKeyAndFile) {
  const Recipe good = recipe_;
  recipe_.assembly.backbone = folder_ / "none";
  EXPECT_THAT(error(), ::testing::AllOf(HasSubstr("recipe.yaml"), HasSubstr("model.backbone"),
                                        HasSubstr("none")));
  recipe_ = good;
  recipe_.assembly.backbone = test::source_dir() / "models/tiny-trol.gguf";
  EXPECT_THAT(error(), ::testing::AllOf(HasSubstr("model.backbone"), HasSubstr("'trol' model")));
  recipe_ = good;
  recipe_.assembly.vision_from = folder_ / "lm";
  EXPECT_THAT(error(), ::testing::AllOf(HasSubstr("model.vision_from"), HasSubstr("no vision")));
}

}  // namespace
}  // namespace reprise
