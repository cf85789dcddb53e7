// The learned exit rule of a looped model: its tensors, and what it computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/factory.h"
#include "formats/safetensors.h"
#include "support/error_of.h"
#include "support/tiny_models.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Json looped_config(const Json& gate) {
  Json config = tiny_text_config("LlamaForCausalLM");
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", 2}, {"lora_rank", 0}, {"exit_gate", gate}}}};
  return config;
}

TEST(ExitGate, IsALinearOfTheStateWithABias) {
  const auto backend = make_backend("cpu", {.threads = 1});
  Backend& be = *backend;
  const auto model = tiny_model(looped_config(true), be);
  ASSERT_TRUE(model->scheme().has_exit_gate());
  std::vector<float> weight, bias;
  model->read_tensors([&](const TensorSlot& slot, const Tensor& bound) {
    if (slot.name == "reprise.exit_gate.weight") weight = be.to_host(bound);
    if (slot.name == "reprise.exit_gate.bias") bias = be.to_host(bound);
  });
  const int64_t d = model->config().text.d;
  ASSERT_EQ(static_cast<int64_t>(weight.size()), d);
  ASSERT_EQ(bias.size(), 1u);
  std::vector<float> state(static_cast<size_t>(2 * d));
  for (size_t i = 0; i < state.size(); ++i) state[i] = std::sin(static_cast<float>(i));
  const Tensor logits = model->scheme().exit_gate(be, be.from_host(state, {2, d}));
  ASSERT_EQ(logits.shape(), (Shape{2, 1}));
  const std::vector<float> found = be.to_host(logits);
  for (size_t row = 0; row < 2; ++row) {
    double expected = bias[0];
    for (size_t i = 0; i < weight.size(); ++i)
      expected += weight[i] * state[row * weight.size() + i];
    EXPECT_NEAR(found[row], expected, 1e-4);
  }
}

TEST(ExitGate, IsThereWhereTheConfigSaysSo) {
  const auto backend = make_backend("cpu", {.threads = 1});
  Backend& be = *backend;
  EXPECT_FALSE(tiny_model(looped_config(false), be)->scheme().has_exit_gate());
  EXPECT_FALSE(tiny_model(looped_config(Json()), be)->scheme().has_exit_gate());
  EXPECT_FALSE(tiny_model(tiny_text_config("LlamaForCausalLM"), be)->scheme().has_exit_gate());
  EXPECT_THAT(error_of([&] { tiny_model(looped_config("yes"), be); }),
              AllOf(HasSubstr("reprise.recursive.exit_gate"), HasSubstr("\"yes\"")));

  // A file that has what the config promises, and one that lacks it.
  const auto written = [&](const TempFolder& folder, bool gate) {
    auto model = tiny_model(looped_config(gate), be);
    std::vector<std::vector<float>> values;
    std::vector<std::pair<std::string, Shape>> slots;
    model->read_tensors([&](const TensorSlot& slot, const Tensor& bound) {
      values.push_back(be.to_host(bound));
      slots.emplace_back(slot.name, slot.shape);
    });
    std::vector<TensorView> tensors;
    for (size_t i = 0; i < slots.size(); ++i)
      tensors.push_back(
          make_view(slots[i].first, slots[i].second, std::span<const float>(values[i])));
    write_safetensors(folder / "model.safetensors", tensors);
    write_file_atomically(folder / "config.json", looped_config(true).dump());
    return model;
  };
  const TempFolder with, without;
  const auto made = written(with, true);
  const auto loaded = Model::load(with.path(), be);
  ASSERT_TRUE(loaded->scheme().has_exit_gate());
  const std::vector<float> ones(36, 1.0f);
  const Tensor state = be.from_host(ones, {1, 36});
  EXPECT_EQ(be.to_host(loaded->scheme().exit_gate(be, state)),
            be.to_host(made->scheme().exit_gate(be, state)));
  written(without, false);
  EXPECT_THAT(error_of([&] { Model::load(without.path(), be); }),
              AllOf(HasSubstr("'reprise.exit_gate.weight' is missing, expected shape [1, 36]"),
                    HasSubstr("'reprise.exit_gate.bias' is missing, expected shape [1]")));
}

}  // namespace
}  // namespace reprise::test
