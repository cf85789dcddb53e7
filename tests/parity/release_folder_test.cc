// Folders as the releases look, damaged in many ways: one error that lists all that is wrong. And
// trol_gating.pt in all its forms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/json.h"
#include "formats/pickle.h"
#include "model/scheme_type.h"
#include "support/golden.h"
#include "support/test_models.h"

namespace reprise::test {
namespace {

using reprise::testing::cut_file;
using reprise::testing::edit_json;
using reprise::testing::edit_tensors;
using reprise::testing::TempFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const Machine kMachine{"cpu", "scalar"};

class ReleaseFolder : public ::testing::Test {
 protected:
  std::filesystem::path copy(const std::string& name) {
    const std::filesystem::path to = folder_ / "model";
    std::filesystem::remove_all(to);
    std::filesystem::copy(golden_root() / name / "model", to);
    return to;
  }
  static std::string refusal(const std::filesystem::path& model) {
    try {
      load_model(model, kMachine);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  const TempFolder folder_;
};

TEST_F(ReleaseFolder, EverythingWrongIsListedAtOnce) {
  const auto model = copy("trol/internlm2-clip");
  std::filesystem::remove(model / "trol_gating.pt");
  edit_tensors(model / "model.safetensors", [](TensorView& tensor) {
    if (tensor.name == "model.norm.weight") tensor.name = "model.norm.scale";
    if (tensor.name.ends_with("layers.1.feed_forward.w2.ffn.weight"))
      std::swap(tensor.shape[0], tensor.shape[1]);
  });
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("trol_gating.pt: is missing"),
                                    HasSubstr("'model.layers.1.feed_forward.w2.ffn.weight'"),
                                    HasSubstr("'model.norm.scale' is unexpected"),
                                    HasSubstr("'model.norm.weight' is missing"),
                                    Not(HasSubstr("'trol_gating.weight' is missing"))));
}

TEST_F(ReleaseFolder, TypesThatNothingComputesWith) {
  const auto model = copy("phantom/qwen2-vit");
  const auto store_as = [](TensorView& tensor, DType type) {
    const auto bytes = static_cast<size_t>(tensor_bytes(type, tensor.shape));
    tensor = make_view(tensor.name, type, tensor.shape, std::vector<std::byte>(bytes));
  };
  edit_tensors(model / "model.safetensors", [&](TensorView& tensor) {
    if (tensor.name == "language_model.lm_head.weight") store_as(tensor, DType::I8);
    if (tensor.name == "language_model.model.norm.weight") store_as(tensor, DType::I64);
    if (tensor.name == "vision_proj.0.bias") store_as(tensor, DType::Bool);
  });
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("'language_model.lm_head.weight' has type I8, expected F32"),
                    HasSubstr("'language_model.model.norm.weight' has type I64, expected F32"),
                    HasSubstr("'vision_proj.0.bias' has type BOOL")));
}

TEST_F(ReleaseFolder, MissingShardsAndOtherProblemsTogether) {
  const auto model = copy("trol/phi3-vit");
  // Two shards of the one file: the second is left out, the first holds a wrong shape.
  std::vector<TensorView> all = open_safetensors(model / "model.safetensors").weights.tensors();
  Json map = Json::object();
  std::vector<TensorView> first;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool in_first = i < all.size() / 2;
    map[all[i].name] = in_first ? "model-1.safetensors" : "model-2.safetensors";
    if (!in_first) continue;
    if (all[i].name == "vision_proj.0.weight") all[i].shape = {1, all[i].shape[0]};
    first.push_back(all[i]);
  }
  const bool reshaped = std::any_of(first.begin(), first.end(), [](const TensorView& tensor) {
    return tensor.name == "vision_proj.0.weight";
  });
  write_safetensors(model / "model-1.safetensors", first);
  write_file_atomically(model / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  std::filesystem::remove(model / "model.safetensors");
  cut_file(model / "trol_gating.pt", 100);
  const std::string message = refusal(model);
  EXPECT_THAT(message, AllOf(HasSubstr("model-2.safetensors"), HasSubstr("trol_gating.pt"),
                             Not(HasSubstr("is missing, expected shape"))));
  if (reshaped) {
    EXPECT_THAT(message, HasSubstr("vision_proj.0.weight"));
  }
  // What the index doesn't name is nowhere, whatever the other shard holds.
  const std::string lost = all.back().name;
  map.erase(lost);
  write_file_atomically(model / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("model-2.safetensors"),
                                    HasSubstr("'" + lost + "' is missing, expected shape")));
}

TEST_F(ReleaseFolder, AConfigThatContradictsItselfAndAMissingGate) {
  const auto model = copy("trol/phi3-vit");
  edit_json(model / "config.json", [](Json& json) {
    json["llm_config"]["num_key_value_heads"] = 3;
    json["vision_config"]["hidden_act"] = "mish";
  });
  std::filesystem::remove(model / "trol_gating.pt");
  const std::string norm = "language_model.model.norm.";
  edit_tensors(model / "model.safetensors", [&](TensorView& tensor) {
    if (tensor.name == norm + "weight") tensor.name = norm + "scale";
  });
  // Sizes that don't hold say nothing about shapes, but the names are known.
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("num_key_value_heads"), HasSubstr("mish"),
                    HasSubstr("trol_gating.pt: is missing"), HasSubstr(norm + "weight' is missing"),
                    HasSubstr(norm + "scale' is unexpected"), Not(HasSubstr("has shape"))));
  edit_json(model / "config.json", [](Json& json) { json["llm_config"]["num_hidden_layers"] = 0; });
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("num_hidden_layers"), HasSubstr("mish"),
                    HasSubstr("trol_gating.pt: is missing"), Not(HasSubstr("tensor"))));
  edit_json(model / "config.json",
            [](Json& json) { json["llm_config"]["architectures"] = {"MambaForCausalLM"}; });
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("Phi3ForCausalLM")));
}

TEST_F(ReleaseFolder, AHostileGateFileIsRefused) {
  const auto model = copy("trol/phi3-vit");
  std::filesystem::copy_file(data_dir() / "formats/evil.pt", model / "trol_gating.pt",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("trol_gating.pt"), HasSubstr("posix.system")));
}

TEST_F(ReleaseFolder, DifferentGatesAreRefusedOrTheLastOneCounts) {
  const std::filesystem::path golden = golden_root() / "trol/internlm2-clip";
  const auto model = copy("trol/internlm2-clip");
  std::filesystem::copy_file(golden / "trol_gating_distinct.pt", model / "trol_gating.pt",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("trol_gating.pt"), HasSubstr("differs"), HasSubstr("--last-gate")));

  LoadedModelOptions options;
  options.model = model;
  options.compute.isa = kMachine.isa;
  options.compute.activations = Activations::F32;
  options.load.scheme.set("last_gate", true);
  const auto loaded = LoadedModel::load(options);
  const std::filesystem::path file = golden / "gate-distinct.safetensors";
  for (const GoldenCase& one : load_golden_cases(file)) {
    EXPECT_EQ(one.expected.size(), 4u) << "logits and three layers' weights";
    for (const std::string& problem :
         compare(one, trace(*loaded, one.inputs, TraceOptions{}), {}, nullptr))
      ADD_FAILURE() << problem;
  }
}

TEST_F(ReleaseFolder, ANotFiniteGateIsNamed) {
  const auto model = copy("trol/phi3-vit");
  std::vector<TensorView> gates = open_pt(model / "trol_gating.pt").tensors();
  ASSERT_EQ(gates[0].name, "0.weight");
  std::vector<float> weight = to_floats(gates[0]);
  weight[1] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> bias = to_floats(gates[1]);
  const ModelConfig config =
      config_from_json(load_json(model / "config.json"), (model / "config.json").string());
  find_scheme("trol")->files.write(
      config,
      {make_view("trol_gating.weight", gates[0].shape, std::span<const float>(weight)),
       make_view("trol_gating.bias", gates[1].shape, std::span<const float>(bias))},
      model);
  const auto loaded = load_model(model, kMachine);
  const auto cases = load_golden_cases(golden_root() / "trol/phi3-vit/case-text.safetensors");
  try {
    trace(*loaded, cases[0].inputs, TraceOptions{});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor 'trol_gating.weight' holds NaN or infinity"));
  }
}

// The official wrappers never tie after from_pretrained has read a head, whatever llm_config says.
TEST_F(ReleaseFolder, AStoredHeadCountsWhereTheConfigTiesIt) {
  const auto model = copy("phantom/qwen2-vit");
  edit_json(model / "config.json",
            [](Json& json) { json["llm_config"]["tie_word_embeddings"] = true; });
  const auto loaded = load_model(model, kMachine);
  EXPECT_FALSE(loaded->config().text.tied_head);
  TraceOptions options;
  options.steps = 6;
  for (const GoldenCase& one :
       load_golden_cases(golden_root() / "phantom/qwen2-vit/case-text.safetensors"))
    for (const std::string& problem :
         compare(one, trace(*loaded, one.inputs, options), {}, nullptr))
      ADD_FAILURE() << problem;

  std::vector<TensorView> tensors = open_safetensors(model / "model.safetensors").weights.tensors();
  std::erase_if(tensors, [](const TensorView& tensor) {
    return tensor.name == "language_model.lm_head.weight";
  });
  write_safetensors(model / "model.safetensors", tensors);
  EXPECT_TRUE(load_model(model, kMachine)->config().text.tied_head);
}

TEST_F(ReleaseFolder, EndTokensOfTheGenerationConfigCountToo) {
  const auto model = copy("phantom/qwen2-vit");
  edit_json(model / "generation_config.json", [](Json& json) { json["eos_token_id"] = {2, 108}; });
  EXPECT_THAT(load_model(model, kMachine)->config().eos_tokens, ::testing::ElementsAre(2, 108));
  edit_json(model / "generation_config.json", [](Json& json) { json["eos_token_id"] = "end"; });
  edit_json(model / "config.json", [](Json& json) { json["eos_token_id"] = int64_t{1} << 32; });
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("generation_config.json: key 'eos_token_id'"),
                                    HasSubstr("/config.json: key 'eos_token_id'")));
}

TEST_F(ReleaseFolder, AGateOfAnotherModelIsRefused) {
  const auto model = copy("trol/internlm2-clip");  // three layers, the other has two
  std::filesystem::copy_file(golden_root() / "trol/internlm2-clip-ntk/model/trol_gating.pt",
                             model / "trol_gating.pt",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("4 entries, expected 6"), HasSubstr("'2.weight'")));
}

}  // namespace
}  // namespace reprise::test
