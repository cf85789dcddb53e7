// A model with rows of 256 values as a mix of types: which tensors get which, and that the file
// computes about what its source does, on every instruction set and with both kinds of activations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "convert/convert.h"
#include "formats/gguf_writer.h"
#include "support/golden.h"
#include "support/test_models.h"
#include "support/tiny_models.h"

namespace reprise {
namespace {

class MixedFiles : public ::testing::TestWithParam<bool> {
 protected:
  MixedFiles() {
    Json config = test::tiny_text_config("LlamaForCausalLM", {.d = 256,
                                                              .heads = 4,
                                                              .kv_heads = 2,
                                                              .head_dim = 64,
                                                              .ffn = 256,
                                                              .vocab = 60,
                                                              .layers = 3});
    config["tie_word_embeddings"] = GetParam();
    const auto backend = make_cpu_backend({.threads = 1});
    const auto model = test::tiny_model(config, *backend);
    std::vector<GgufTensor> tensors;
    model->visit_tensors([&](const TensorSlot& slot) {
      tensors.push_back({make_view(slot.name, slot.shape, test::tiny_values(slot)), DType::F32});
    });
    GgufMetadata metadata;
    metadata.set("general.architecture", std::string("reprise"));
    metadata.set("reprise.config", config.dump());
    write_gguf(source_, metadata, tensors);
  }
  static std::vector<float> logits(const std::filesystem::path& path, const test::Machine& machine,
                                   Activations activations) {
    LoadedModelOptions options;
    options.model = path;
    options.backend = machine.backend;
    options.compute.isa = machine.isa;
    options.compute.threads = 2;
    options.compute.activations = activations;
    const auto model = LoadedModel::load(options);
    const TokenInputs inputs = {.where = "test", .ids = {1, 7, 39, 0, 22, 59, 3}};
    return to_floats(WeightFile("trace", trace(*model, inputs, {.steps = 3})).get("logits"));
  }

  testing::TempFolder folder_;
  const std::filesystem::path source_ = folder_ / "f32.gguf", target_ = folder_ / "mixed.gguf";
};

// The cosine between two lists of values.
double likeness(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i)
    ab += double{a[i]} * b[i], aa += double{a[i]} * a[i], bb += double{b[i]} * b[i];
  return ab / std::sqrt(aa * bb);
}

TEST_P(MixedFiles, ComputeAboutWhatTheirSourceDoes) {
  const bool tied = GetParam();
  const ConversionSource source = open_source(source_);
  const std::vector<float> expected =
      logits(source_, test::cpu_machines().front(), Activations::F32);
  double least = 0;
  for (const char* mix : {"q2_k", "q4_k_m", "q6_k"}) {
    if (tied && std::string(mix) != "q4_k_m") continue;  // time
    ConvertOptions options;
    options.replace = true;
    set_type(options.types, mix, "--type");
    convert_to_gguf(source, target_, options);
    if (std::string(mix) == "q4_k_m") {
      const GgufFile file = open_gguf(target_);
      EXPECT_EQ(file.metadata.get_u32("general.file_type"), 15u);
      const auto type = [&](const std::string& name) { return file.weights.get(name).type; };
      for (int layer = 0; layer < 3; ++layer) {
        const std::string at = fmt::format("model.layers.{}.", layer);
        const bool more = layer == 2;
        EXPECT_EQ(type(at + "self_attn.v_proj.weight"), more ? DType::Q6_K : DType::Q4_K) << at;
        EXPECT_EQ(type(at + "mlp.down_proj.weight"), more ? DType::Q6_K : DType::Q4_K) << at;
        EXPECT_EQ(type(at + "self_attn.q_proj.weight"), DType::Q4_K) << at;
        EXPECT_EQ(type(at + "mlp.up_proj.weight"), DType::Q4_K) << at;
        EXPECT_EQ(type(at + "input_layernorm.weight"), DType::F32) << at;
      }
      EXPECT_EQ(type("model.embed_tokens.weight"), tied ? DType::Q6_K : DType::Q4_K);
      if (!tied) {
        EXPECT_EQ(type("lm_head.weight"), DType::Q6_K);
      }
    }
    double likest = 1;
    for (const test::Machine& machine : test::machines()) {
      if (std::string(mix) != "q4_k_m" && machine.name() != test::machines().front().name())
        continue;  // time
      for (const Activations activations : {Activations::F32, Activations::Int8})
        likest = std::min(likest, likeness(logits(target_, machine, activations), expected));
    }
    EXPECT_GT(likest, least) << mix;  // more bits, less error
    least = likest;
  }
  EXPECT_GT(least, tied ? 0.95 : 0.995);
}

INSTANTIATE_TEST_SUITE_P(TiedHead, MixedFiles, ::testing::Bool());

}  // namespace
}  // namespace reprise
