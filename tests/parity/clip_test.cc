// The CLIP-style vision tower and its mlp2x_gelu projector against the official TroL code: weights,
// pixels and outputs of golden trol/internlm2-clip (clip_tower.safetensors holds just those
// tensors; the language model of that case, InternLM2, isn't read yet).
#include <gtest/gtest.h>

#include <cmath>

#include "model/config_parts.h"
#include "model/vision.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise::test {
namespace {

constexpr double kTolerance = 5e-4;  // the README's for hidden states

class Clip : public testing::TestWithParam<Machine> {};

TEST_P(Clip, TowerAndProjector) {
  const WeightFile file =
      open_safetensors(test::data_dir() / "parity/clip_tower.safetensors").weights;
  const Json json = {{"model_type", "clip_vision_model"},
                     {"hidden_size", 64},
                     {"intermediate_size", 128},
                     {"num_hidden_layers", 3},
                     {"num_attention_heads", 4},
                     {"patch_size", 14},
                     {"image_size", 84},
                     {"hidden_act", "quick_gelu"},
                     {"layer_norm_eps", 1e-5}};
  VisionConfig config = read_vision_config(JsonObject(json, "test"));
  config.projector_hidden = 64;
  BackendOptions options;
  options.isa = GetParam().isa;
  const auto be = make_backend(GetParam().backend, options);
  VisionTower tower(config, 64);
  tower.visit_tensors([&](const TensorSlot& slot) {
    const TensorView& view = file.get(slot.name);
    ASSERT_EQ(view.shape, slot.shape) << slot.name;
    HostTensor host{view.type, view.shape, view.data, view.owner, {}};
    if (slot.flatten) host.shape = {view.shape[0], num_elements(view.shape) / view.shape[0]};
    *slot.tensor = be->bind(host, slot.use);
  });
  const TensorView& pixels = file.get("case.pixel_values");
  const Tensor features = tower.features(*be, be->from_host(to_floats(pixels), pixels.shape));
  const Tensor projected = tower.project(*be, features);
  for (const auto& [name, tensor] :
       {std::pair{"case.vision_out", features}, std::pair{"case.projected", projected}}) {
    const std::vector<float> want = to_floats(file.get(name)), got = be->to_host(tensor);
    ASSERT_EQ(got.size(), want.size()) << name;
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
    EXPECT_LE(worst, kTolerance) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Clip, testing::ValuesIn(machines()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace reprise::test
