// Folders as the releases look, damaged in many ways: one error that lists all that is wrong. And
// trol_gating.pt in all its forms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
      load_engine(model, kMachine);
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
                                    HasSubstr("'model.norm.scale' is unexpected")));
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
}

TEST_F(ReleaseFolder, AConfigThatContradictsItselfAndAMissingGate) {
  const auto model = copy("trol/phi3-vit");
  edit_json(model / "config.json", [](Json& json) {
    json["llm_config"]["num_key_value_heads"] = 3;
    json["vision_config"]["hidden_act"] = "relu";
  });
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("num_key_value_heads"), HasSubstr("relu")));
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

  EngineOptions options;
  options.model = model;
  options.compute.isa = kMachine.isa;
  options.compute.activations = Activations::F32;
  options.load.last_gate = true;
  const auto engine = Engine::load(options);
  const std::filesystem::path file = golden / "gate-distinct.safetensors";
  for (const GoldenCase& one : load_golden_cases(file)) {
    EXPECT_EQ(one.expected.size(), 4u) << "logits and three layers' weights";
    for (const std::string& problem :
         compare(one, trace(*engine, one.inputs, TraceOptions{}), {}, nullptr))
      ADD_FAILURE() << problem;
  }
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
