// Config reading: every required key is missed by name, every wrong type is refused by name.
#include "model/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "support/paths.h"

namespace reprise {
namespace {

using testing::HasSubstr;

Json golden(const std::string& model) {
  return load_json(test::data_dir() / "golden" / model / "model/config.json");
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
  EXPECT_EQ(trol.text.rope.kind, RopeConfig::Kind::LongRope);
  EXPECT_EQ(trol.image_token, 5);
  EXPECT_EQ(trol.vision->tokens_per_tile(), 16);
  EXPECT_EQ(trol.presets.size(), 1u);
  const ModelConfig phantom = config_from_json(golden("phantom/qwen2-vit"), "c");
  EXPECT_EQ(phantom.scheme, "phantom");
  EXPECT_TRUE(phantom.text.qkv_bias);
  EXPECT_EQ(phantom.text.window, 0) << "Qwen2's window is off unless use_sliding_window";
  const ModelConfig window = config_from_json(golden("trol/phi3-vit-window"), "c");
  EXPECT_EQ(window.text.window, 10);
  const ModelConfig intern = config_from_json(golden("trol/internlm2-clip"), "c");
  EXPECT_EQ(intern.scheme, "trol");
  EXPECT_TRUE(intern.text.grouped_qkv);
  EXPECT_EQ(intern.text.image_lora_rank, 256);
  EXPECT_EQ(intern.text.embed_rows, intern.text.vocab + 1);
  EXPECT_EQ(intern.image.kind, ImageConfig::Kind::Clip490);
  const ModelConfig llama = config_from_json(golden("rrt/llama"), "c");
  EXPECT_EQ(llama.scheme, "dense");
  EXPECT_EQ(llama.text.rope.theta, 10000.0) << "from rope_parameters, as transformers 5 writes it";
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
  json["llm_config"]["hidden_act"] = "relu";
  json["vision_config"].erase("patch_size");
  json["vision_config"]["norm_type"] = "rms";
  json["image_token_index"] = 100000;
  EXPECT_THAT(error_of(json),
              testing::AllOf(HasSubstr("llm_config.hidden_size"),
                             HasSubstr("llm_config.num_key_value_heads"), HasSubstr("relu"),
                             HasSubstr("vision_config.patch_size"),
                             HasSubstr("vision_config.norm_type"), HasSubstr("image_token_index")));
}

TEST(Config, AMissingKeyIsNamed) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "rms_norm_eps", "hidden_act",
                          "max_position_embeddings", "architectures"}) {
    Json json = golden("rrt/llama");
    json.erase(key);
    EXPECT_THAT(error_of(json), testing::AllOf(HasSubstr("folder/config.json"), HasSubstr(key)));
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
  EXPECT_THAT(with("hidden_act", "relu"), HasSubstr("unknown activation 'relu'"));
  EXPECT_THAT(with("architectures", {"FooForCausalLM"}), HasSubstr("LlamaForCausalLM"));
  EXPECT_THAT(with("attention_bias", true), HasSubstr("attention_bias"));
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

TEST(Config, AWindowOnSomeLayersOnlyIsRefused) {
  Json json = golden("phantom/qwen2-vit");  // 3 layers
  json["llm_config"]["use_sliding_window"] = true;
  json["llm_config"]["sliding_window"] = 7;
  const auto window = [&](int from) {
    json["llm_config"]["max_window_layers"] = from;
    return config_from_json(json, "c").text.window;
  };
  EXPECT_EQ(window(0), 7);
  EXPECT_EQ(window(3), 0) << "no layer has it";
  json["llm_config"]["max_window_layers"] = 2;
  EXPECT_THAT(error_of(json), HasSubstr("llm_config.max_window_layers"));
  json["llm_config"].erase("max_window_layers");
  EXPECT_THAT(error_of(json), HasSubstr("llm_config.max_window_layers"));
}

}  // namespace
}  // namespace reprise
