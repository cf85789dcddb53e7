// Training parts of the torch backend: losses, gradients that add up, clipping, AdamW, what is
// trainable and what is recorded.
#include "unit/backend/torch_support.h"

namespace reprise::testing {
namespace {

class TorchTrain : public ::testing::Test {
 protected:
  std::unique_ptr<TrainBackend> be = torch_backend();
  Inputs in{17};
};

double plain_cross_entropy(const std::vector<float>& logits, const std::vector<int32_t>& labels) {
  const size_t n = logits.size() / labels.size();
  double loss = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == -100) continue;
    double total = 0;
    for (size_t j = 0; j < n; ++j) total += std::exp(double{logits[i * n + j]});
    loss += std::log(total) - logits[i * n + static_cast<size_t>(labels[i])];
  }
  return loss;
}

TEST_F(TorchTrain, CrossEntropySumsCountedRows) {
  const Tensor logits = trainable(*be, in, {6, 9}, 3);
  for (const std::vector<int32_t>& labels :
       {std::vector<int32_t>{3, -100, 0, 8, -100, -100}, std::vector<int32_t>{1, 2, 3, 4, 5, 6}}) {
    const Tensor loss = be->cross_entropy_sum(logits, labels);
    EXPECT_EQ(loss.shape(), Shape{1});
    EXPECT_NEAR(be->to_host(loss)[0], plain_cross_entropy(be->to_host(logits), labels), 1e-4);
    const Tensor one[] = {logits};
    check_gradients(*be, one, [&] { return be->cross_entropy_sum(logits, labels); });
  }
}

TEST_F(TorchTrain, CrossEntropyOfNoRowsIsZeroAndHasZeroGradients) {
  const Tensor logits = trainable(*be, in, {2, 9});
  const std::vector<int32_t> labels = {-100, -100};
  const Tensor loss = be->cross_entropy_sum(logits, labels);
  EXPECT_EQ(be->to_host(loss), std::vector<float>{0});
  be->backward(loss);
  EXPECT_EQ(be->gradient(logits), std::vector<float>(18));
}

TEST_F(TorchTrain, GradientsAddUpUntilTheyAreZeroed) {
  const Tensor w = trainable(*be, in, {4});
  const Tensor one[] = {w};
  const std::vector<float> c = {1, -2, 3, -4};
  EXPECT_EQ(be->gradient(w), std::vector<float>(4));
  be->backward(weighted_sum(*be, w, c));
  be->backward(weighted_sum(*be, w, c));
  EXPECT_EQ(be->gradient(w), (std::vector<float>{2, -4, 6, -8}));
  be->zero_gradients(one);
  EXPECT_EQ(be->gradient(w), std::vector<float>(4));
}

TEST_F(TorchTrain, FrozenWeightsGetNoGradient) {
  const Tensor w = trainable(*be, in, {4}), frozen = bind_floats(*be, in.values(4), {4});
  be->backward(weighted_sum(*be, be->mul(w, frozen), std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(be->gradient(w), be->to_host(frozen));
  EXPECT_EQ(be->gradient(frozen), std::vector<float>(4));
  be->set_trainable(w, false);
  EXPECT_EQ(be->gradient(w), std::vector<float>(4));
  EXPECT_THROW(be->adamw_step(w, {}), InternalError);
}

TEST_F(TorchTrain, NothingIsRecordedWhileRecordingIsOff) {
  const Tensor w = trainable(*be, in, {4});
  const std::vector<float> c(4, 1.0f);
  be->set_recording(false);
  const Tensor loss = weighted_sum(*be, be->scale(w, 2), c);
  EXPECT_THROW(be->backward(loss), InternalError);
  be->set_recording(true);
  be->backward(weighted_sum(*be, be->scale(w, 2), c));
  EXPECT_EQ(be->gradient(w), std::vector<float>(4, 2.0f));
}

TEST_F(TorchTrain, ClipScalesTheNormOverAllWeights) {
  const Tensor a = trainable(*be, in, {2}), b = trainable(*be, in, {1}),
               none = trainable(*be, in, {3});
  const Tensor all[] = {a, b, none};
  const auto fill = [&] {
    be->zero_gradients(all);
    be->backward(weighted_sum(*be, a, std::vector<float>{2, 3}));
    be->backward(weighted_sum(*be, b, std::vector<float>{6}));
  };
  fill();
  EXPECT_NEAR(be->clip_gradients(all, 100), 7, 1e-6);
  EXPECT_EQ(be->gradient(b), std::vector<float>{6});
  EXPECT_NEAR(be->clip_gradients(all, 0), 7, 1e-6);
  EXPECT_EQ(be->gradient(b), std::vector<float>{6});
  EXPECT_NEAR(be->clip_gradients(all, 3.5), 7, 1e-6);
  expect_near({1, 1.5f}, be->gradient(a), 1e-6);
  expect_near({3}, be->gradient(b), 1e-6);
  be->zero_gradients(all);
  EXPECT_EQ(be->clip_gradients(all, 1), 0);
}

// AdamW as published, in double.
struct PlainAdamW {
  std::vector<double> p, m, v;
  int64_t step = 0;

  void update(const std::vector<float>& grad, const AdamWOptions& o) {
    ++step;
    m.resize(p.size());
    v.resize(p.size());
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] *= 1 - double{o.lr} * o.weight_decay;
      m[i] = o.beta1 * m[i] + (1 - double{o.beta1}) * grad[i];
      v[i] = o.beta2 * v[i] + (1 - double{o.beta2}) * grad[i] * grad[i];
      const double m_hat = m[i] / (1 - std::pow(double{o.beta1}, static_cast<double>(step)));
      const double v_hat = v[i] / (1 - std::pow(double{o.beta2}, static_cast<double>(step)));
      p[i] -= o.lr * m_hat / (std::sqrt(v_hat) + o.eps);
    }
  }
  std::vector<float> values() const { return {p.begin(), p.end()}; }
};

TEST_F(TorchTrain, AdamWEqualsThePlainFormula) {
  const Tensor w = trainable(*be, in, {3, 7});
  const Tensor one[] = {w};
  PlainAdamW plain;
  const std::vector<float> start = be->to_host(w);
  plain.p.assign(start.begin(), start.end());
  for (int step = 0; step < 5; ++step) {
    const AdamWOptions options = {.lr = 0.05f / static_cast<float>(step + 1),
                                  .beta1 = 0.8f,
                                  .beta2 = 0.9f,
                                  .eps = 1e-3f,
                                  .weight_decay = 0.3f};
    const std::vector<float> grad = in.values(21);
    be->zero_gradients(one);
    if (step != 3) be->backward(weighted_sum(*be, w, grad));  // step 3: no gradient arrives
    be->adamw_step(w, options);
    plain.update(step == 3 ? std::vector<float>(21) : grad, options);
    SCOPED_TRACE(step);
    expect_near(plain.values(), be->to_host(w), 2e-6);
  }
}

TEST_F(TorchTrain, AdamStateGoesOnWhereItWasSaved) {
  const Tensor w = trainable(*be, in, {5});
  const Tensor one[] = {w};
  EXPECT_TRUE(be->adam_state(w).m.empty());
  const AdamWOptions options = {.lr = 0.1f};
  const auto step = [&](const Tensor& weight, uint64_t seed) {
    Inputs random(seed);
    const Tensor list[] = {weight};
    be->zero_gradients(list);
    be->backward(weighted_sum(*be, weight, random.values(5)));
    be->adamw_step(weight, options);
  };
  step(w, 1);
  step(w, 2);
  const AdamState state = be->adam_state(w);
  EXPECT_EQ(state.step, 2);
  const Tensor resumed = trainable(*be, in, {5});
  be->assign(resumed, be->to_host(w));
  be->set_adam_state(resumed, state);
  step(w, 3);
  step(resumed, 3);
  EXPECT_EQ(be->to_host(w), be->to_host(resumed));
  be->set_adam_state(resumed, {});
  EXPECT_TRUE(be->adam_state(resumed).m.empty());
  EXPECT_EQ(be->adam_state(resumed).step, 0);
}

// Assigning and stepping write in place: handles made before see the new values.
TEST_F(TorchTrain, AssignWritesIntoTheWeight) {
  const Tensor w = trainable(*be, in, {2, 2}), same = w;
  const std::vector<float> values = {1, 2, 3, 4};
  be->assign(w, values);
  EXPECT_EQ(be->to_host(same), values);
  EXPECT_THROW(be->assign(w, std::vector<float>{1, 2, 3}), InternalError);
  EXPECT_THROW(be->assign(be->scale(w, 2), values), InternalError);
}

TEST_F(TorchTrain, QuantizedWeightsTrainAsF32MasterCopies) {
  const Tensor w = in.matrix(*be, DType::Q8_0, {3, 32});
  EXPECT_EQ(w.dtype(), DType::Q8_0);
  be->set_trainable(w, true);
  const std::vector<float> before = be->to_host(w);
  const LinearWeight linear = {.weight = w, .bias = {}, .adapters = {}};
  const Tensor x = in.tensor(*be, {2, 32});
  be->backward(weighted_sum(*be, be->linear(x, linear), in.values(6)));
  be->adamw_step(w, {.lr = 1e-6f});
  const std::vector<float> after = be->to_host(w);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(before[i], after[i], 1.1e-6);
  EXPECT_NE(before, after);  // far below a quantization step
}

TEST_F(TorchTrain, Bf16ProductsKeepF32Weights) {
  const Tensor w = trainable(*be, in, {8, 64});
  const LinearWeight linear = {.weight = w, .bias = trainable(*be, in, {8}), .adapters = {}};
  const Tensor x = in.tensor(*be, {4, 64});
  const std::vector<float> exact = be->to_host(be->linear(x, linear)), c = in.values(32);
  be->backward(weighted_sum(*be, be->linear(x, linear), c));
  const std::vector<float> exact_gradient = be->gradient(w);
  const std::vector<float> before = be->to_host(w);
  be->set_bf16(true);
  const std::vector<float> rounded = be->to_host(be->linear(x, linear));
  expect_near(exact, rounded, 0.02);
  EXPECT_NE(exact, rounded);
  const Tensor one[] = {w};
  be->zero_gradients(one);
  be->backward(weighted_sum(*be, be->linear(x, linear), c));
  expect_near(exact_gradient, be->gradient(w), 0.02);
  EXPECT_EQ(before, be->to_host(w));
}

TEST_F(TorchTrain, StatsCountWhatIsHeld) {
  const int64_t weights = be->stats().weight_bytes;
  {
    const Tensor w = trainable(*be, in, {100, 10});
    EXPECT_EQ(be->stats().weight_bytes, weights + 4000);
    const int64_t held = be->stats().workspace_bytes;
    const Tensor y = be->scale(w, 2);
    const Tensor view = be->slice(y, 0, 0, 50);
    EXPECT_EQ(be->stats().workspace_bytes, held + 4000);
    const auto page = be->new_page({.heads = 2, .k_dim = 4, .v_dim = 8, .type = DType::F16});
    EXPECT_EQ(be->stats().kv_bytes, kKvPageTokens * 2 * 12 * 2);
  }
  EXPECT_EQ(be->stats().weight_bytes, weights);
  EXPECT_EQ(be->stats().kv_bytes, 0);
  EXPECT_GE(be->stats().workspace_peak, 4000);
}

TEST(TorchErrors, DevicesAndTypesAreNamed) {
  const auto be = torch_backend();
  try {
    make_torch_backend({.device = "tpu"});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("'tpu'"), std::string::npos) << e.what();
  }
  Inputs in(1);
  EXPECT_THROW(in.matrix(*be, DType::I64, {2, 2}), Error);
  const std::vector<std::byte> bytes(4);
  const HostTensor bad = {.type = DType::U8, .shape = {4}, .bytes = bytes};
  EXPECT_THROW(be->bind(bad, WeightUse::Vector), Error);
}

}  // namespace
}  // namespace reprise::testing
