// Config reading: every required key is missed by name, every wrong type is refused by name.
#include "model/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/architecture.h"
#include "support/paths.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json golden(const std::string& model) {
  return load_json(test::data_dir() / "golden" / model / "model/config.json");
}

using Windows = std::vector<int64_t>;

Windows windows(const ModelConfig& config) {
  Windows list;
  for (const BlockConfig& block : config.text.blocks) list.push_back(block.window);
  return list;
}

std::string error_of(const Json& json) {
  try {
    config_from_json(json, "folder/config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Config, ReadsTheGoldenModels) {
  const ModelConfig trol = config_from_json(golden("trol/phi3-vit"), "c");
  EXPECT_EQ(trol.scheme, "trol");
  EXPECT_TRUE(trol.text.fused_qkv);
  EXPECT_EQ(trol.text.ropes.at(0).kind, RopeConfig::Kind::LongRope);
  EXPECT_EQ(trol.image_token, 5);
  EXPECT_EQ(trol.vision->tokens_per_tile(), 16);
  EXPECT_EQ(trol.presets.size(), 1u);
  const ModelConfig phantom = config_from_json(golden("phantom/qwen2-vit"), "c");
  EXPECT_EQ(phantom.scheme, "phantom");
  EXPECT_TRUE(phantom.text.qkv_bias);
  EXPECT_EQ(windows(phantom), Windows({0, 0, 0}))
      << "Qwen2's window is off unless use_sliding_window";
  const ModelConfig window = config_from_json(golden("trol/phi3-vit-window"), "c");
  EXPECT_EQ(windows(window), Windows({11, 11})) << "the released code sees one key more";
  const ModelConfig intern = config_from_json(golden("trol/internlm2-clip"), "c");
  EXPECT_EQ(intern.scheme, "trol");
  EXPECT_TRUE(intern.text.grouped_qkv);
  EXPECT_EQ(intern.text.image_lora_rank, 256);
  EXPECT_EQ(intern.text.embed_rows, intern.text.vocab + 1);
  EXPECT_EQ(intern.image.kind, ImageConfig::Kind::Clip490);
  const ModelConfig llama = config_from_json(golden("rrt/llama"), "c");
  EXPECT_EQ(llama.scheme, "dense");
  EXPECT_EQ(llama.text.ropes.at(0).theta, 10000.0)
      << "from rope_parameters, as transformers 5 writes it";
}

TEST(Config, PresetsSupplyWhatTheInternLm2ReleasesLeaveToTheirCode) {
  Json json = golden("trol/internlm2-clip");
  json.erase("vision_config");
  json.erase("image_token_index");
  const ModelConfig config = config_from_json(json, "c");
  EXPECT_EQ(config.vision->image_size, 490);
  EXPECT_EQ(config.vision->tokens_per_tile(), 1225);
  EXPECT_EQ(config.image_token, config.text.vocab) << "the row behind the vocabulary";
  EXPECT_EQ(config.presets.size(), 3u);
  json["model_type"] = "internvl";
  EXPECT_THAT(error_of(json), HasSubstr("model_type"));
  json["model_type"] = "internlm";
  json["bias"] = true;
  EXPECT_THAT(error_of(json), HasSubstr("bias"));
}

TEST(Config, TrolMayLeaveTheImageTokenToTheTokenizer) {
  Json json = golden("trol/phi3-vit");
  json.erase("image_token_index");
  EXPECT_EQ(config_from_json(json, "c").image_token, -1);
}

TEST(Config, EverythingWrongIsListedAtOnce) {
  Json json = golden("phantom/internlm2-vit");
  json["llm_config"]["hidden_size"] = "wide";
  json["llm_config"]["num_key_value_heads"] = 3;
  json["llm_config"]["hidden_act"] = "mish";
  json["vision_config"].erase("patch_size");
  json["vision_config"]["norm_type"] = "rms";
  json["image_token_index"] = 100000;
  EXPECT_THAT(error_of(json),
              testing::AllOf(HasSubstr("llm_config.hidden_size"),
                             HasSubstr("llm_config.num_key_value_heads"), HasSubstr("mish"),
                             HasSubstr("vision_config.patch_size"),
                             HasSubstr("vision_config.norm_type"), HasSubstr("image_token_index")));
}

TEST(Config, AMissingKeyIsNamed) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "architectures"}) {
    Json json = golden("rrt/llama");
    json.erase(key);
    EXPECT_THAT(error_of(json), testing::AllOf(HasSubstr("folder/config.json"), HasSubstr(key)));
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "rms_norm_eps", "hidden_act",
                          "max_position_embeddings", "architectures"}) {
    Json json = golden("rrt/llama");
    json[key] = Json::object();
    EXPECT_THAT(error_of(json), HasSubstr(key)) << "wrong type";
  }
  for (const char* key : {"llm_config", "vision_config", "downsample_ratio", "image_token_index"}) {
    Json json = golden("phantom/phi3-vit");
    json.erase(key);
    EXPECT_THAT(error_of(json), HasSubstr(key));
  }
  for (const char* key : {"hidden_size", "patch_size", "image_size", "layer_norm_eps", "model_type",
                          "num_attention_heads", "qkv_bias", "norm_type"}) {
    Json json = golden("phantom/qwen2-vit");
    json["vision_config"].erase(key);
    EXPECT_THAT(error_of(json), HasSubstr(std::string("vision_config.") + key));
  }
}

TEST(Config, ContradictionsAndUnknownValuesAreRefused) {
  const auto with = [](const char* key, Json value) {
    Json json = golden("rrt/llama");
    json[key] = std::move(value);
    return error_of(json);
  };
  EXPECT_THAT(with("num_key_value_heads", 3), HasSubstr("does not divide"));
  EXPECT_THAT(with("num_key_value_heads", 8), HasSubstr("num_key_value_heads"));
  EXPECT_THAT(with("hidden_size", 0), HasSubstr("hidden_size"));
  EXPECT_THAT(with("hidden_size", -64), HasSubstr("hidden_size"));
  EXPECT_THAT(with("num_hidden_layers", 1e15), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(with("hidden_act", "mish"), HasSubstr("unknown activation 'mish'"));
  EXPECT_THAT(with("architectures", {"FooForCausalLM"}), HasSubstr("LlamaForCausalLM"));
  EXPECT_THAT(with("attn_logit_softcapping", 50.0), HasSubstr("attn_logit_softcapping"));
  EXPECT_EQ(with("attn_logit_softcapping", nullptr), "");
  EXPECT_EQ(with("residual_multiplier", 1.0), "");
  EXPECT_THAT(with("residual_multiplier", 0.2), HasSubstr("residual_multiplier"));
  EXPECT_THAT(with("rms_norm_eps", 0), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(with("rope_parameters", {{"rope_theta", 1e4}, {"rope_type", "spiral"}}),
              HasSubstr("unknown rope scaling 'spiral'"));
  EXPECT_THAT(with("rms_norm_eps", 1e300), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(with("rope_parameters", {{"rope_theta", 1e300}, {"rope_type", "default"}}),
              HasSubstr("rope_theta"));
  EXPECT_THAT(
      with("rope_parameters",
           {{"rope_theta", 1e4}, {"rope_type", "default"}, {"partial_rotary_factor", 1e300}}),
      HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(with("rope_theta", 77), HasSubstr("'rope_theta': contradicts rope_parameters"));
  Json tower = golden("phantom/qwen2-vit");
  for (const double eps : {0.0, -1.0, 1e300}) {
    tower["vision_config"]["layer_norm_eps"] = eps;
    EXPECT_THAT(error_of(tower), HasSubstr("vision_config.layer_norm_eps"));
  }
  Json dynamic = golden("rrt/llama");
  dynamic["head_dim"] = 2;
  dynamic["rope_parameters"] = {{"rope_theta", 1e4}, {"rope_type", "dynamic"}, {"factor", 2.0}};
  EXPECT_THAT(error_of(dynamic), HasSubstr("dynamic")) << "the formula divides by dim - 2";
  Json factors = golden("trol/phi3-vit");
  factors["llm_config"]["rope_scaling"]["short_factor"] = {1.0};
  EXPECT_THAT(error_of(factors), HasSubstr("expected 8 numbers, found 1"));
}

// A decoder of three layers whose config has the five sizes only.
Json bare(const std::string& architecture) {
  return {{"architectures", {architecture}}, {"hidden_size", 64},      {"num_attention_heads", 32},
          {"intermediate_size", 48},         {"num_hidden_layers", 3}, {"vocab_size", 50}};
}

TEST(Config, AbsentKeysMeanWhatTheArchitecturesOwnCodeMeans) {
  struct Expected {
    const char* name;
    int kv_heads;
    int head_dim;
    float eps;
    Unary activation;
    int64_t max_position;
    bool tied;
    int heads = 32;
    int rotated = 0;     // 0: whole heads
    int64_t window = 0;  // of all three layers
    double theta = 10000;
  };
  const Expected all[] = {
      {"LlamaForCausalLM", 32, 2, 1e-6f, Unary::Silu, 2048, false},
      {"MistralForCausalLM", 8, 2, 1e-6f, Unary::Silu, 131072, false, 32, 0, 4096},
      {"SmolLM3ForCausalLM", 4, 2, 1e-6f, Unary::Silu, 32768, true, 32, 0, 0, 2e6},
      {"Qwen2ForCausalLM", 32, 2, 1e-6f, Unary::Silu, 32768, false},
      {"Qwen3ForCausalLM", 32, 128, 1e-6f, Unary::Silu, 32768, false},
      {"Phi3ForCausalLM", 32, 2, 1e-5f, Unary::Silu, 4096, false},
      {"GemmaForCausalLM", 16, 256, 1e-6f, Unary::GeluTanh, 8192, true},
      {"Gemma3ForCausalLM", 4, 256, 1e-6f, Unary::GeluTanh, 131072, true, 32, 0, 4096, 1e6},
      {"InternLM2ForCausalLM", 32, 2, 1e-6f, Unary::Silu, 2048, false},
      {"GPTNeoXForCausalLM", 2, 32, 1e-5f, Unary::Gelu, 2048, false, 2, 8},
  };
  for (const Expected& expected : all) {
    Json json = bare(expected.name);
    json["num_attention_heads"] = expected.heads;
    const ModelConfig config = config_from_json(json, "c");
    const TextConfig& text = config.text;
    EXPECT_EQ(text.kv_heads, expected.kv_heads) << expected.name;
    EXPECT_EQ(text.head_dim, expected.head_dim) << expected.name;
    EXPECT_EQ(text.final_norm.eps, expected.eps) << expected.name;
    EXPECT_EQ(text.activation, expected.activation) << expected.name;
    EXPECT_EQ(text.max_position, expected.max_position) << expected.name;
    EXPECT_EQ(text.tied_head, expected.tied) << expected.name;
    EXPECT_EQ(text.ropes.at(0).theta, expected.theta) << expected.name;
    EXPECT_EQ(text.ropes.at(0).kind, RopeConfig::Kind::Plain) << expected.name;
    EXPECT_EQ(text.ropes.at(0).dim, expected.rotated ? expected.rotated : expected.head_dim)
        << expected.name;
    EXPECT_EQ(windows(config), Windows(3, expected.window)) << expected.name;
  }
  Json json = bare("Qwen2ForCausalLM");
  json["num_attention_heads"] = 64;
  json["head_dim"] = 4;
  EXPECT_EQ(config_from_json(json, "c").text.kv_heads, 32) << "Qwen2Config's default";
  json["num_key_value_heads"] = nullptr;
  EXPECT_EQ(config_from_json(json, "c").text.kv_heads, 64) << "null means as many as heads";
  json["num_attention_heads"] = 32;
  for (const char* key : {"head_dim", "rope_scaling", "rope_parameters", "sliding_window",
                          "hidden_act", "tie_word_embeddings", "layer_types"})
    json[key] = nullptr;
  EXPECT_EQ(error_of(json), "");
  EXPECT_TRUE(config_from_json(bare("InternLM2ForCausalLM"), "c").text.qkv_bias)
      << "InternLM2Config's bias";
}

TEST(Config, BiasesOfLlamaAreTold) {
  Json json = bare("LlamaForCausalLM");
  EXPECT_FALSE(config_from_json(json, "c").text.o_bias);
  json["attention_bias"] = true;
  EXPECT_TRUE(config_from_json(json, "c").text.qkv_bias);
  EXPECT_TRUE(config_from_json(json, "c").text.o_bias);
  EXPECT_FALSE(config_from_json(json, "c").text.mlp_bias);
  json["mlp_bias"] = true;
  EXPECT_TRUE(config_from_json(json, "c").text.mlp_bias);
  Json other = bare("Qwen2ForCausalLM");
  other["attention_bias"] = true;
  EXPECT_THAT(error_of(other), HasSubstr("attention_bias")) << "its code has no such flag";
}

TEST(Config, LayersWithoutRope) {
  Json json = bare("SmolLM3ForCausalLM");
  json["num_hidden_layers"] = 5;
  const auto layers = [&] {
    std::vector<int> list;
    for (const BlockConfig& block : config_from_json(json, "c").text.blocks)
      list.push_back(block.rope);
    return list;
  };
  EXPECT_THAT(layers(), ElementsAre(0, 0, 0, kNoRope, 0)) << "every fourth";
  json["no_rope_layer_interval"] = 2;
  EXPECT_THAT(layers(), ElementsAre(0, kNoRope, 0, kNoRope, 0));
  json["no_rope_layers"] = {0, 1, 1, 0, 1};
  EXPECT_THAT(layers(), ElementsAre(kNoRope, 0, 0, kNoRope, 0)) << "the list counts";
  json["use_sliding_window"] = true;
  json["sliding_window"] = 7;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({7, 0, 0, 7, 0}));
  for (const Json& wrong : {Json({0, 1}), Json({0, 1, 1, true, 1}), Json(3)}) {
    json["no_rope_layers"] = wrong;
    EXPECT_THAT(error_of(json), HasSubstr("'no_rope_layers': expected an array of 5 numbers"));
  }
  Json other = bare("LlamaForCausalLM");
  other["no_rope_layers"] = {0, 1, 1};
  EXPECT_THAT(error_of(other), HasSubstr("no_rope_layers")) << "no key of its code";
}

TEST(Config, KeysOfGptNeox) {
  Json json = bare("GPTNeoXForCausalLM");
  json["num_attention_heads"] = 4;  // of 16
  const auto text = [&] { return config_from_json(json, "c").text; };
  EXPECT_TRUE(text().parallel_residual);
  EXPECT_TRUE(text().qkv_bias && text().o_bias && text().mlp_bias);
  EXPECT_FALSE(text().gated_mlp);
  EXPECT_TRUE(text().fused_qkv && text().grouped_qkv);
  EXPECT_EQ(text().final_norm.kind, NormKind::Layer);
  EXPECT_TRUE(text().final_norm.bias && text().blocks.at(0).norm.bias);
  EXPECT_EQ(text().ropes.at(0).dim, 4);
  json["use_parallel_residual"] = false;
  json["attention_bias"] = false;
  json["rotary_pct"] = 0.5;
  json["rotary_emb_base"] = 500;
  json["layer_norm_eps"] = 1e-3;
  json["rms_norm_eps"] = 7;  // nobody's key
  EXPECT_FALSE(text().parallel_residual);
  EXPECT_FALSE(text().qkv_bias || text().o_bias);
  EXPECT_TRUE(text().mlp_bias) << "always there";
  EXPECT_EQ(text().ropes.at(0).dim, 8);
  EXPECT_EQ(text().ropes.at(0).theta, 500);
  EXPECT_EQ(text().final_norm.eps, 1e-3f);
  // transformers 4 saves the usual names too.
  json["rope_theta"] = 500.0;
  json["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(error_of(json), "");
  json["rope_theta"] = 700;
  EXPECT_THAT(error_of(json),
              HasSubstr("'rope_theta': expected none, or 500 as 'rotary_emb_base'"));
  json.erase("rope_theta");
  json["partial_rotary_factor"] = 1;
  EXPECT_THAT(error_of(json), HasSubstr("'partial_rotary_factor': expected none, or 0.5"));
  json.erase("partial_rotary_factor");
  json["rope_parameters"] = {{"rope_theta", 500}, {"partial_rotary_factor", 0.25}};
  EXPECT_THAT(error_of(json), HasSubstr("'rotary_pct': contradicts rope_parameters"));
  json.erase("rotary_pct");
  EXPECT_EQ(text().ropes.at(0).dim, 4);
  json["rope_parameters"]["partial_rotary_factor"] = 0.2;
  EXPECT_THAT(error_of(json), HasSubstr("partial_rotary_factor': gives 3 rotated components"));
}

TEST(Config, WhatGptNeoxHasNoKeyForIsRefused) {
  const auto with = [](const char* key, Json value) {
    Json json = bare("GPTNeoXForCausalLM");
    json["num_attention_heads"] = 4;
    json[key] = std::move(value);
    return error_of(json);
  };
  EXPECT_EQ(with("num_key_value_heads", 4), "");
  EXPECT_THAT(with("num_key_value_heads", 2), HasSubstr("'num_key_value_heads': expected"));
  EXPECT_EQ(with("head_dim", 16), "");
  EXPECT_THAT(with("head_dim", 8), HasSubstr("'head_dim': expected hidden_size / num_attention"));
  EXPECT_THAT(with("num_attention_heads", 5), HasSubstr("does not divide hidden_size"));
  EXPECT_THAT(with("use_parallel_residual", 1), HasSubstr("'use_parallel_residual'"));
  EXPECT_THAT(with("hidden_act", "gelu_10"), HasSubstr("unknown activation 'gelu_10'"));
  EXPECT_THAT(with("parallel_attn", true), HasSubstr("parallel_attn"));
  EXPECT_THAT(with("layer_norm_eps", 0), HasSubstr("layer_norm_eps"));
  Json other = bare("LlamaForCausalLM");
  other["use_parallel_residual"] = true;
  EXPECT_THAT(error_of(other), HasSubstr("use_parallel_residual")) << "no flag of its code";
}

TEST(Config, QkvIsStoredAsItsOwnKeySays) {
  using Layout = std::pair<bool, bool>;
  Json json;
  const auto layout = [&] {
    const TextConfig text = config_from_json(json, "c").text;
    return Layout(text.fused_qkv, text.grouped_qkv);
  };
  json = bare("InternLM2ForCausalLM");
  EXPECT_EQ(layout(), Layout(true, true));
  json["reprise"] = {{"qkv", "separate"}};
  EXPECT_EQ(layout(), Layout(false, false));
  json["reprise"] = {{"qkv", "fused"}};
  EXPECT_EQ(layout(), Layout(true, false));
  json = bare("LlamaForCausalLM");
  EXPECT_EQ(layout(), Layout(false, false));
  json["reprise"] = {{"qkv", "grouped"}};
  EXPECT_EQ(layout(), Layout(true, true));
  json["reprise"] = {{"qkv", "mixed"}};
  EXPECT_THAT(error_of(json), HasSubstr("'reprise.qkv': expected \"separate\", \"fused\""));
  json["reprise"] = {{"qkv", 3}};
  EXPECT_THAT(error_of(json), HasSubstr("'reprise.qkv'"));
}

TEST(Config, AWindowOfWIsWKeys) {
  Json json = bare("Phi3ForCausalLM");
  json["sliding_window"] = 7;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({7, 7, 7}));
  json["sliding_window"] = 1;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({1, 1, 1}));
  json["sliding_window"] = nullptr;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({0, 0, 0}));
  json["sliding_window"] = 0;
  EXPECT_THAT(error_of(json), HasSubstr("sliding_window"));
  Json llama = bare("LlamaForCausalLM");
  llama["sliding_window"] = 7;
  EXPECT_EQ(windows(config_from_json(llama, "c")), Windows({0, 0, 0})) << "its code has no window";
}

TEST(Config, WindowsOnSomeLayersOnly) {
  Json json = bare("Qwen2ForCausalLM");
  json["sliding_window"] = 7;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({0, 0, 0})) << "off unless switched on";
  json["use_sliding_window"] = true;
  EXPECT_EQ(windows(config_from_json(json, "c")), Windows({0, 0, 0})) << "from layer 28 on";
  const auto from = [&](int first) {
    json["max_window_layers"] = first;
    return windows(config_from_json(json, "c"));
  };
  EXPECT_EQ(from(0), Windows({7, 7, 7}));
  EXPECT_EQ(from(1), Windows({0, 7, 7}));
  EXPECT_EQ(from(3), Windows({0, 0, 0}));
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(from(3), Windows({7, 0, 7})) << "layer_types decides";
  json.erase("sliding_window");
  EXPECT_EQ(from(0), Windows({4096, 0, 4096})) << "Qwen2Config's default";
  json["sliding_window"] = nullptr;
  EXPECT_THAT(error_of(json), HasSubstr("'sliding_window': is none"));
  json["use_sliding_window"] = false;
  EXPECT_THAT(error_of(json), HasSubstr("use_sliding_window is not true"));
  json["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_THAT(error_of(json), HasSubstr("expected an array of 3 names"));
  json["layer_types"] = {"full_attention", "full_attention", "chunked_attention"};
  EXPECT_THAT(error_of(json), HasSubstr("chunked_attention"));
}

TEST(Config, PartialRotationInEitherPlace) {
  Json json = bare("Phi3ForCausalLM");
  json["head_dim"] = 16;
  json["partial_rotary_factor"] = 0.75;
  const auto dim = [&] { return config_from_json(json, "c").text.ropes.at(0).dim; };
  EXPECT_EQ(dim(), 12);
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e4}};
  EXPECT_EQ(dim(), 12) << "beside rope_parameters";
  json["rope_parameters"]["partial_rotary_factor"] = 0.5;
  EXPECT_THAT(error_of(json), HasSubstr("'partial_rotary_factor': contradicts"));
  json.erase("partial_rotary_factor");
  EXPECT_EQ(dim(), 8) << "inside";
  json["architectures"] = {"LlamaForCausalLM"};
  EXPECT_THAT(error_of(json), HasSubstr("partial_rotary_factor")) << "its code rotates whole heads";
}

TEST(Config, RopeThetaInEitherPlace) {
  Json json = bare("LlamaForCausalLM");
  const auto theta = [&] { return config_from_json(json, "c").text.ropes.at(0).theta; };
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(theta(), 10000);
  json["rope_theta"] = 500.0;
  EXPECT_EQ(theta(), 500);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(theta(), 500) << "both styles may be there where they agree";
  json["rope_scaling"]["factor"] = 3.0;
  EXPECT_THAT(error_of(json), HasSubstr("'rope_scaling': contradicts"));
  json.erase("rope_parameters");
  json.erase("rope_theta");
  json["rope_scaling"]["rope_theta"] = 700.0;
  EXPECT_EQ(theta(), 700);
  json["rope_scaling"]["mrope_section"] = {1};
  EXPECT_THAT(error_of(json), HasSubstr("rope_scaling.mrope_section"));
}

TEST(Config, ARopeForEachKindOfLayer) {
  Json json = bare("Qwen2ForCausalLM");
  json["use_sliding_window"] = true;
  json["sliding_window"] = 7;
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  json["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                             {"sliding_attention", {{"rope_type", "default"}}}};
  const ModelConfig config = config_from_json(json, "c");
  std::vector<double> thetas;
  for (const BlockConfig& block : config.text.blocks)
    thetas.push_back(config.text.ropes.at(static_cast<size_t>(block.rope)).theta);
  EXPECT_EQ(thetas, std::vector<double>({1e4, 1e6, 1e4}));
  json["rope_parameters"].erase("sliding_attention");
  EXPECT_THAT(error_of(json), HasSubstr("rope_parameters.sliding_attention"));
}

TEST(Config, YarnOfAllButPhi3) {
  Json json = bare("Qwen2ForCausalLM");
  json["max_position_embeddings"] = 64;
  json["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  const auto rope = [&] { return config_from_json(json, "c").text.ropes.at(0); };
  EXPECT_EQ(rope().kind, RopeConfig::Kind::Yarn);
  EXPECT_EQ(rope().original_max_position, 64) << "absent: max_position_embeddings";
  EXPECT_NEAR(rope().attention_factor, 0.1 * std::log(4) + 1, 1e-12);
  EXPECT_EQ(rope().beta_fast, 32);
  EXPECT_EQ(rope().beta_slow, 1);
  EXPECT_TRUE(rope().truncate);
  json["original_max_position_embeddings"] = 16;
  json["rope_scaling"]["factor"] = nullptr;
  EXPECT_EQ(rope().factor, 4) << "null: the ratio of the contexts";
  json["rope_scaling"]["original_max_position_embeddings"] = 32;
  EXPECT_THAT(error_of(json), HasSubstr("'original_max_position_embeddings': contradicts"));
  json.erase("original_max_position_embeddings");
  EXPECT_EQ(rope().factor, 2);
  json["rope_scaling"].erase("factor");
  EXPECT_THAT(error_of(json), HasSubstr("rope_scaling.factor"));
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0},         {"mscale", 0.7},
                          {"beta_fast", 8},      {"mscale_all_dim", 0.4}, {"truncate", false}};
  EXPECT_NEAR(rope().attention_factor, (0.07 * std::log(4) + 1) / (0.04 * std::log(4) + 1), 1e-12);
  EXPECT_EQ(rope().beta_fast, 8);
  EXPECT_FALSE(rope().truncate);
  json["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_EQ(rope().attention_factor, 1.5);
}

TEST(Config, Phi3sYarnIsLongRope) {
  Json json = bare("Phi3ForCausalLM");
  json["head_dim"] = 4;
  json["max_position_embeddings"] = 64;
  json["original_max_position_embeddings"] = 16;
  json["rope_scaling"] = {{"type", "yarn"}, {"short_factor", {1, 1}}, {"long_factor", {1, 2}}};
  const double usual = std::sqrt(1 + std::log(4) / std::log(16));
  EXPECT_NEAR(config_from_json(json, "c").text.ropes.at(0).attention_factor, usual, 1e-12);
  Json wrapped = golden("phantom/phi3-vit");  // 32 of 128 positions
  wrapped["llm_config"]["rope_scaling"]["type"] = "yarn";
  EXPECT_NEAR(config_from_json(wrapped, "c").text.ropes.at(0).attention_factor,
              0.1 * std::log(4) + 1, 1e-12)
      << "the released code's own";
  json.erase("original_max_position_embeddings");
  EXPECT_EQ(config_from_json(json, "c").text.ropes.at(0).original_max_position, 4096);
}

TEST(Config, UnknownArchitecturesAreToldTheKnownOnes) {
  for (const Architecture& known : architectures()) {
    EXPECT_EQ(find_architecture(known.name), &known);
    EXPECT_TRUE(knows_architecture({{"architectures", {known.name}}}));
    EXPECT_THAT(error_of(bare("FooForCausalLM")), HasSubstr(known.name));
  }
  EXPECT_FALSE(knows_architecture({{"architectures", {"FooForCausalLM"}}}));
}

}  // namespace
}  // namespace reprise
