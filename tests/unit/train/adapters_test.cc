// Adapters, base weights in few bits and recomputation on the torch backend. Gradients are compared
// with PyTorch's (tests/data/train/make_lora.py).
#include "train/adapters/adapters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise {
namespace {

class Adapters : public testing::Test {
 protected:
  void SetUp() override {
    be_ = test::recording_torch();
    if (!be_) GTEST_SKIP() << "the torch backend is not built";
  }
  Tensor bind(const std::vector<float>& values, Shape shape, bool trained = false) {
    HostTensor source;
    source.shape = std::move(shape);
    source.bytes = std::as_bytes(std::span(values));
    const Tensor tensor = be_->bind(source, WeightUse::Matrix);
    be_->set_trainable(tensor, trained);
    return tensor;
  }
  Tensor bind(const TensorView& view, bool trained = false) {
    return bind(to_floats(view), view.shape, trained);
  }
  // sum c y.
  Tensor loss(const Tensor& y, const std::vector<float>& c) {
    return be_->weighted_sums(be_->reshape(y, {y.size()}), c);
  }
  std::unique_ptr<TrainBackend> be_;
};

double relative(const std::vector<float>& found, const std::vector<float>& expected) {
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  return test::distance(found, expected) / largest;
}

TEST_F(Adapters, ValuesAndGradientsArePyTorchs) {
  const WeightFile file = open_safetensors(test::data_dir() / "train/lora.safetensors").weights;
  const std::vector<float> c = to_floats(file.get("c"));
  for (const char* base : {"f32", "nf4", "int8"}) {
    SCOPED_TRACE(base);
    const auto expected = [&](const std::string& name) {
      return to_floats(file.get(base + ("." + name)));
    };
    LinearWeight linear;
    linear.weight = bind(file.get("w"));
    linear.bias = bind(file.get("bias"));
    const Tensor x = bind(file.get("x"), true);
    const LowRank pair{bind(file.get("a"), true), bind(file.get("b"), true),
                       to_floats(file.get("scale"))[0]};
    if (base != std::string("f32")) {
      const QuantizationError error = be_->quantize_weight(
          linear.weight, base == std::string("nf4") ? LowBitKind::Nf4 : LowBitKind::Int8);
      EXPECT_GT(error.relative_rms, 1e-3);
      EXPECT_LT(error.relative_rms, 0.15);
    }
    be_->attach_adapter(linear.weight, pair, 0);
    const Tensor y = be_->linear(x, linear);
    EXPECT_LE(relative(be_->to_host(y), expected("y")), 1e-6);
    be_->backward(loss(y, c));
    EXPECT_LE(relative(be_->gradient(x), expected("grad.x")), 2e-6);
    EXPECT_LE(relative(be_->gradient(pair.a), expected("grad.a")), 2e-6);
    EXPECT_LE(relative(be_->gradient(pair.b), expected("grad.b")), 2e-6);
    EXPECT_EQ(be_->gradient(linear.weight),  // the base gets none
              std::vector<float>(static_cast<size_t>(linear.weight.size())));
    // Merged, the weight alone does the same.
    be_->merge_adapter(linear.weight);
    EXPECT_LE(relative(be_->to_host(be_->linear(x, linear)), expected("y")), 1e-6);
  }
}

TEST_F(Adapters, DropoutIsAFunctionOfSeedAndPassAndKeepsTheMean) {
  constexpr int64_t kWidth = 2000;
  std::vector<float> eye(static_cast<size_t>(kWidth), 1.0f);
  LinearWeight linear;
  linear.weight = bind(std::vector<float>(static_cast<size_t>(kWidth)), {1, kWidth});
  const LowRank pair{bind(eye, {1, kWidth}, true), bind({1}, {1, 1}, true), 1.0f};
  be_->attach_adapter(linear.weight, pair, 0.25);
  const Tensor x = be_->from_host(std::vector<float>(kWidth, 1.0f), {1, kWidth});
  const auto run = [&] { return be_->to_host(be_->linear(x, linear))[0]; };
  be_->begin_pass(1, 7);
  const float first = run(), second = run();
  be_->begin_pass(1, 7);
  EXPECT_EQ(run(), first);
  EXPECT_EQ(run(), second);
  EXPECT_NE(first, second);
  be_->begin_pass(1, 8);
  EXPECT_NE(run(), first);
  EXPECT_NEAR(first, kWidth, 5 * std::sqrt(kWidth * 0.25 / 0.75));  // five standard deviations
  be_->set_recording(false);
  EXPECT_EQ(run(), kWidth);  // nothing is dropped in evaluation
  be_->set_recording(true);
}

// A part with weights, adapter and dropout, computed with and without recomputation.
TEST_F(Adapters, RecomputedPartsGiveTheSameBits) {
  constexpr int64_t kRows = 6, kWidth = 24;
  const auto numbers = [](int64_t n, int seed) {
    std::vector<float> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = std::sin(static_cast<float>(seed) + 0.7f * static_cast<float>(i));
    return values;
  };
  LinearWeight one, two;
  one.weight = bind(numbers(kWidth * kWidth, 1), {kWidth, kWidth}, true);
  two.weight = bind(numbers(kWidth * kWidth, 2), {kWidth, kWidth});
  const LowRank pair{bind(numbers(3 * kWidth, 3), {3, kWidth}, true),
                     bind(numbers(3 * kWidth, 4), {kWidth, 3}, true), 0.5f};
  be_->quantize_weight(two.weight, LowBitKind::Nf4Double);
  be_->attach_adapter(two.weight, pair, 0.3);
  const Tensor trained[] = {one.weight, pair.a, pair.b};
  const std::vector<float> c = numbers(kRows * kWidth, 5);
  // x takes no gradients, as in front of the first block: the part's weights still do.
  const Tensor x = be_->from_host(numbers(kRows * kWidth, 6), {kRows, kWidth});
  std::vector<std::vector<float>> found[2];
  for (const int again : {0, 1}) {
    const auto part = [&](const Tensor& in) {
      return be_->linear(be_->unary(be_->linear(in, one), Unary::Gelu), two);
    };
    const auto run = [&](const Tensor& in) { return again ? be_->checkpoint(in, part) : part(in); };
    be_->zero_gradients(trained);
    be_->begin_pass(3, 4);
    const Tensor y = run(run(x));  // the same weights twice, as TroL visits its blocks
    found[again].push_back(be_->to_host(y));
    be_->backward(loss(y, c));
    for (const Tensor& weight : trained) found[again].push_back(be_->gradient(weight));
  }
  EXPECT_EQ(found[0], found[1]);
  for (const std::vector<float>& values : found[0])
    EXPECT_GT(std::inner_product(values.begin(), values.end(), values.begin(), 0.0), 0);
}

TEST_F(Adapters, WeightsInFewBitsTakeLessMemoryAndRefuseOtherUses) {
  const Tensor weight = bind(std::vector<float>(256 * 256, 0.25f), {256, 256});
  const int64_t before = be_->stats().weight_bytes;
  be_->quantize_weight(weight, LowBitKind::Nf4);
  EXPECT_EQ(before - be_->stats().weight_bytes, 256 * 256 * 4 - (256 * 256 / 2 + 4 * 1024));
  EXPECT_EQ(be_->to_host(weight), std::vector<float>(256 * 256, 0.25f));
  EXPECT_THROW(be_->embed(weight, std::vector<int32_t>{1}), InternalError);
  EXPECT_THROW(be_->set_trainable(weight, true), InternalError);
}

}  // namespace
}  // namespace reprise
