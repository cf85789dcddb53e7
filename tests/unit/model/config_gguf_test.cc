// What the keys of llama.cpp's files mean, absent ones included.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "model/arch/architecture.h"
#include "model/load.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A file of two layers, 4 heads of 8, that has the required keys and the embedding only.
GgufFile file_of(const std::string& architecture) {
  GgufFile file;
  const auto set = [&](const std::string& key, GgufValue value) {
    file.metadata.set(architecture + "." + key, std::move(value));
  };
  file.metadata.set("general.architecture", architecture);
  set("block_count", uint32_t{2});
  set("context_length", uint32_t{64});
  set("embedding_length", uint32_t{32});
  set("feed_forward_length", uint32_t{40});
  set("attention.head_count", uint32_t{4});
  set("attention.layer_norm_rms_epsilon", 1e-5f);
  if (architecture == "gptneox") {
    set("attention.layer_norm_epsilon", 1e-3f);
    set("use_parallel_residual", true);
  }
  file.weights = WeightFile(
      "file.gguf", {make_view("token_embd.weight", {50, 32}, std::vector<float>(50 * 32))});
  return file;
}

void add_tensor(GgufFile& file, const std::string& name, const std::vector<float>& values) {
  std::vector<TensorView> tensors = file.weights.tensors();
  tensors.push_back(make_view(name, {std::ssize(values)}, values));
  file.weights = WeightFile("file.gguf", std::move(tensors));
}

std::string error_of(const GgufFile& file) {
  try {
    config_from_gguf(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(GgufConfig, AbsentKeysMeanWhatLlamaCppMeans) {
  const TextConfig text = config_from_gguf(file_of("llama")).text;
  EXPECT_EQ(text.architecture, "LlamaForCausalLM");
  EXPECT_EQ(text.kv_heads, 4);
  EXPECT_EQ(text.head_dim, 8);
  EXPECT_TRUE(text.tied_head) << "no tensor output.weight";
  EXPECT_EQ(text.ropes.at(0).theta, 10000);
  EXPECT_EQ(text.ropes.at(0).kind, RopeConfig::Kind::Plain);
  EXPECT_TRUE(text.ropes.at(0).interleaved);
  EXPECT_EQ(text.blocks.at(0).window, 0);
  EXPECT_FALSE(text.qkv_bias);
  EXPECT_FALSE(config_from_gguf(file_of("qwen2")).text.ropes.at(0).interleaved);
}

TEST(GgufConfig, EveryArchitectureOfTheRegistry) {
  for (const Architecture& known : architectures()) {
    if (!known.gguf.name) continue;
    EXPECT_EQ(config_from_gguf(file_of(known.gguf.name)).text.kind, &known);
    EXPECT_THAT(error_of(file_of("foo")), HasSubstr(known.gguf.name));
  }
}

TEST(GgufConfig, GptNeox) {
  GgufFile file = file_of("gptneox");
  const auto text = [&] { return config_from_gguf(file).text; };
  EXPECT_FLOAT_EQ(text().final_norm.eps, 1e-3f);
  EXPECT_EQ(text().activation, Unary::Gelu);
  EXPECT_EQ(text().ropes.at(0).dim, 8) << "llama.cpp rotates whole heads where the key is absent";
  EXPECT_TRUE(text().fused_qkv);
  EXPECT_FALSE(text().grouped_qkv) << "rows are reordered";
  EXPECT_TRUE(text().parallel_residual);
  EXPECT_FALSE(text().qkv_bias) << "no tensor blk.0.attn_qkv.bias";
  add_tensor(file, "blk.0.attn_qkv.bias", std::vector<float>(96));
  EXPECT_TRUE(text().qkv_bias);
  EXPECT_TRUE(text().o_bias);
  file.metadata.set("gptneox.rope.dimension_count", uint32_t{2});
  file.metadata.set("gptneox.use_parallel_residual", false);
  EXPECT_EQ(text().ropes.at(0).dim, 2);
  EXPECT_FALSE(text().parallel_residual);
  file.metadata.set("gptneox.rope.dimension_count", uint32_t{10});
  EXPECT_THAT(error_of(file), HasSubstr("gptneox.rope.dimension_count': expected 2 to 8"));
  GgufFile other = file_of("llama");
  other.metadata.set("llama.use_parallel_residual", true);
  EXPECT_THAT(error_of(other), HasSubstr("llama.use_parallel_residual"));
}

// Windows, scale and caps, as llama.cpp derives them.
TEST(GgufConfig, Gemma) {
  GgufFile file = file_of("gemma2");
  const auto text = [&] { return config_from_gguf(file).text; };
  const auto windows = [&] {
    std::vector<int64_t> list;
    for (const BlockConfig& block : text().blocks) list.push_back(block.window);
    return list;
  };
  EXPECT_THAT(windows(), ElementsAre(4096, 0));
  EXPECT_EQ(text().score_softcap, 50);
  EXPECT_EQ(text().logit_softcap, 30);
  EXPECT_FLOAT_EQ(text().blocks[0].scale, 1 / std::sqrt(8.0f));
  file.metadata.set("gemma2.attention.sliding_window", uint32_t{7});
  file.metadata.set("gemma2.attn_logit_softcapping", 20.0f);
  file.metadata.set("gemma2.final_logit_softcapping", 0.0f);
  file.metadata.set("gemma2.attention.key_length", uint32_t{12});
  EXPECT_THAT(windows(), ElementsAre(7, 0));
  EXPECT_EQ(text().score_softcap, 20);
  EXPECT_EQ(text().logit_softcap, 0);
  EXPECT_FLOAT_EQ(text().blocks[0].scale, 1 / std::sqrt(12.0f));
  file.metadata.set("gemma2.block_count", uint32_t{46});
  EXPECT_FLOAT_EQ(text().blocks[0].scale, 1 / std::sqrt(8.0f)) << "the largest: d / heads";
  file = file_of("gemma3");
  EXPECT_THAT(windows(), ElementsAre(0, 0)) << "absent: none";
  file.metadata.set("gemma3.final_logit_softcapping", 25.0f);
  EXPECT_EQ(text().logit_softcap, 25);
  file.metadata.set("gemma3.attn_logit_softcapping", 25.0f);
  EXPECT_THAT(error_of(file), HasSubstr("gemma3.attn_logit_softcapping"));
}

// Which layers are of which kind, where ours is a file of fewer layers made of llama.cpp's.
TEST(GgufConfig, KindsOfLayersOfOurOwn) {
  GgufFile file = file_of("gemma2");
  file.metadata.set("reprise.keys", std::string(R"({"layer_types":
      ["full_attention", "sliding_attention"]})"));
  EXPECT_EQ(config_from_gguf(file).text.blocks[0].window, 0);
  EXPECT_EQ(config_from_gguf(file).text.blocks[1].window, 4096);
  file = file_of("smollm3");
  EXPECT_EQ(config_from_gguf(file).text.blocks[1].rope, 0);
  file.metadata.set("reprise.keys", std::string(R"({"no_rope_layers": [1, 0]})"));
  EXPECT_EQ(config_from_gguf(file).text.blocks[1].rope, kNoRope);
}

TEST(GgufConfig, AWindowOfWIsWKeys) {
  for (const char* name : {"llama", "qwen2", "phi3"}) {
    GgufFile file = file_of(name);
    file.metadata.set(std::string(name) + ".attention.sliding_window", uint32_t{7});
    for (const BlockConfig& block : config_from_gguf(file).text.blocks)
      EXPECT_EQ(block.window, 7) << name;
  }
}

TEST(GgufConfig, RotatedComponents) {
  GgufFile file = file_of("phi3");
  file.metadata.set("phi3.attention.key_length", uint32_t{100});
  const auto dim = [&](uint32_t count) {
    file.metadata.set("phi3.rope.dimension_count", count);
    return config_from_gguf(file).text.ropes.at(0).dim;
  };
  for (uint32_t count = 2; count <= 100; count += 2) EXPECT_EQ(dim(count), count);
  file.metadata.set("phi3.rope.dimension_count", uint32_t{102});
  EXPECT_THAT(error_of(file), HasSubstr("rope.dimension_count"));
  file.metadata.set("phi3.rope.dimension_count", uint32_t{3});
  EXPECT_THAT(error_of(file), HasSubstr("3 rotated components"));
  GgufFile whole = file_of("llama");
  whole.metadata.set("llama.rope.dimension_count", uint32_t{6});
  EXPECT_THAT(error_of(whole), HasSubstr("rope.dimension_count': expected 8, found 6"));
}

TEST(GgufConfig, LinearScalingIsTheTypesDefault) {
  GgufFile file = file_of("llama");
  file.metadata.set("llama.rope.scale_linear", 2.0f);
  EXPECT_EQ(config_from_gguf(file).text.ropes.at(0).factor, 2) << "the factor's old name";
  file.metadata.set("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(config_from_gguf(file).text.ropes.at(0).kind, RopeConfig::Kind::Linear);
  EXPECT_EQ(config_from_gguf(file).text.ropes.at(0).factor, 4);
  add_tensor(file, "rope_freqs.weight", {1, 2, 3, 4});
  EXPECT_EQ(config_from_gguf(file).text.ropes.at(0).long_factor,
            std::vector<double>({4, 8, 12, 16}));
  file.metadata.set("llama.rope.scaling.type", std::string("none"));
  EXPECT_EQ(config_from_gguf(file).text.ropes.at(0).long_factor, std::vector<double>({1, 2, 3, 4}));
}

TEST(GgufConfig, Yarn) {
  GgufFile file = file_of("qwen2");
  const auto set = [&](const std::string& key, GgufValue value) {
    file.metadata.set("qwen2.rope.scaling." + key, std::move(value));
  };
  const auto rope = [&] { return config_from_gguf(file).text.ropes.at(0); };
  const double usual = 0.1 * std::log(4) + 1;
  set("type", std::string("yarn"));
  set("factor", 4.0f);
  EXPECT_EQ(rope().kind, RopeConfig::Kind::Yarn);
  EXPECT_EQ(rope().original_max_position, 64) << "absent: the context";
  EXPECT_NEAR(rope().attention_factor, usual, 1e-6);
  set("original_context_length", uint32_t{16});
  set("yarn_beta_fast", 8.0f);
  set("yarn_beta_slow", 2.0f);
  set("yarn_log_multiplier", 0.5f);
  EXPECT_EQ(rope().original_max_position, 16);
  EXPECT_EQ(rope().beta_fast, 8);
  EXPECT_EQ(rope().beta_slow, 2);
  EXPECT_NEAR(rope().attention_factor, usual / (0.05 * std::log(4) + 1), 1e-6);
  set("yarn_attn_factor", 1.5f);
  EXPECT_EQ(rope().attention_factor, 1.5);
  set("attn_factor", 2.0f);
  EXPECT_EQ(rope().attention_factor, 3);
  set("yarn_ext_factor", 0.5f);
  EXPECT_THAT(error_of(file), HasSubstr("yarn_ext_factor"));
  set("yarn_ext_factor", 1.0f);
  add_tensor(file, "rope_freqs.weight", {1, 2, 3, 4});
  EXPECT_THAT(error_of(file), HasSubstr("contradicts the rope factors"));
}

TEST(GgufConfig, LongRopeNeedsItsFactors) {
  GgufFile file = file_of("phi3");
  file.metadata.set("phi3.rope.scaling.type", std::string("longrope"));
  EXPECT_THAT(error_of(file), HasSubstr("rope_factors_short.weight"));
  add_tensor(file, "rope_factors_short.weight", {1, 1, 1, 1});
  add_tensor(file, "rope_factors_long.weight", {1, 2, 3});
  EXPECT_THAT(error_of(file), HasSubstr("expected 4 factors, found 3"));
}

TEST(GgufConfig, PartsOfOtherArchitecturesAreRefused) {
  const std::pair<const char*, GgufValue> parts[] = {{"expert_count", uint32_t{8}},
                                                     {"attention.causal", false},
                                                     {"attention.scale", 0.5f},
                                                     {"final_logit_softcapping", 30.0f},
                                                     {"rope.scaling.type", std::string("spiral")}};
  for (const auto& [key, value] : parts) {
    GgufFile file = file_of("llama");
    file.metadata.set(std::string("llama.") + key, value);
    EXPECT_THAT(error_of(file), HasSubstr(key));
  }
  GgufFile file = file_of("llama");
  file.metadata.set("llama.expert_count", uint32_t{0});
  file.metadata.set("llama.attention.causal", true);
  file.metadata.set("llama.logit_scale", 1.0f);
  EXPECT_EQ(error_of(file), "");
}

}  // namespace
}  // namespace reprise
