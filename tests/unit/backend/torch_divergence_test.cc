// Divergences between two distributions over a vocabulary, against their formulas in float64 and
// finite differences.
#include "unit/backend/torch_support.h"

namespace reprise::testing {
namespace {

constexpr Divergence kAll[] = {Divergence::ForwardKl, Divergence::ReverseKl, Divergence::Jsd,
                               Divergence::Tvd};

std::vector<double> softmax(std::span<const float> logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) {
    p.push_back(std::exp(x / temperature));
    sum += p.back();
  }
  for (double& x : p) x /= sum;
  return p;
}

double plain(const std::vector<float>& teacher, const std::vector<float>& student, size_t vocab,
             Divergence kind, double temperature) {
  double sum = 0;
  for (size_t row = 0; row < teacher.size(); row += vocab) {
    const auto p = softmax(std::span(teacher).subspan(row, vocab), temperature);
    const auto q = softmax(std::span(student).subspan(row, vocab), temperature);
    for (size_t i = 0; i < vocab; ++i) {
      const double m = (p[i] + q[i]) / 2;
      switch (kind) {
        case Divergence::ForwardKl:
          sum += p[i] * std::log(p[i] / q[i]);
          break;
        case Divergence::ReverseKl:
          sum += q[i] * std::log(q[i] / p[i]);
          break;
        case Divergence::Jsd:
          sum += (p[i] * std::log(p[i] / m) + q[i] * std::log(q[i] / m)) / 2;
          break;
        case Divergence::Tvd:
          sum += std::abs(p[i] - q[i]) / 2;
          break;
      }
    }
  }
  return sum;
}

class TorchDivergence : public ::testing::Test {
 protected:
  std::unique_ptr<TrainBackend> be = torch_backend();
  Inputs in{31};
};

TEST_F(TorchDivergence, ByHand) {
  // p = (1/2, 1/2), q = (1/4, 3/4).
  const Tensor teacher = be->from_host(std::vector<float>{0, 0}, {1, 2});
  const Tensor student =
      be->from_host(std::vector<float>{0, static_cast<float>(std::log(3.0))}, {1, 2});
  const auto value = [&](Divergence kind) {
    return be->to_host(be->divergence_sum(teacher, student, kind, 1))[0];
  };
  EXPECT_NEAR(value(Divergence::ForwardKl), 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-6);
  EXPECT_NEAR(value(Divergence::ReverseKl), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-6);
  EXPECT_NEAR(value(Divergence::Jsd),
              (0.5 * std::log(4.0 / 3) + 0.5 * std::log(4.0 / 5) + 0.25 * std::log(2.0 / 3) +
               0.75 * std::log(6.0 / 5)) /
                  2,
              1e-6);
  EXPECT_NEAR(value(Divergence::Tvd), 0.25, 1e-6);
}

TEST_F(TorchDivergence, ValuesAndGradients) {
  for (const double temperature : {1.0, 2.5})
    for (const Divergence kind : kAll) {
      SCOPED_TRACE(static_cast<int>(kind));
      const Tensor teacher = trainable(*be, in, {5, 7}, 3);
      const Tensor student = trainable(*be, in, {5, 7}, 3);
      const auto value = [&] {
        return be->divergence_sum(teacher, student, kind, static_cast<float>(temperature));
      };
      EXPECT_EQ(value().shape(), Shape{1});
      EXPECT_NEAR(be->to_host(value())[0],
                  plain(be->to_host(teacher), be->to_host(student), 7, kind, temperature), 1e-5);
      const Tensor one[] = {student};
      check_gradients(*be, one, value);
      EXPECT_EQ(be->gradient(teacher), std::vector<float>(35)) << "a constant";
    }
}

// Rows go through in blocks; two of a large vocabulary don't share one.
TEST_F(TorchDivergence, LargeVocabulariesAndEqualDistributions) {
  const int64_t vocab = 300'000;
  const std::vector<float> a = in.values(2 * vocab, 2), b = in.values(2 * vocab, 2);
  const Tensor teacher = be->from_host(a, {2, vocab}), student = be->from_host(b, {2, vocab});
  for (const Divergence kind : kAll) {
    EXPECT_NEAR(be->to_host(be->divergence_sum(teacher, student, kind, 1))[0],
                plain(a, b, static_cast<size_t>(vocab), kind, 1), 1e-4);
    EXPECT_NEAR(be->to_host(be->divergence_sum(teacher, teacher, kind, 1))[0], 0, 1e-4);
  }
}

TEST_F(TorchDivergence, ExtremeLogitsStayFinite) {
  const Tensor teacher = be->from_host(std::vector<float>{200, -200, 0}, {1, 3});
  const Tensor student = bind_floats(*be, std::vector<float>{-200, 200, 0}, {1, 3});
  be->set_trainable(student, true);
  for (const Divergence kind : kAll) {
    be->set_trainable(student, false);
    be->set_trainable(student, true);
    const Tensor sum = be->divergence_sum(teacher, student, kind, 1);
    be->backward(sum);
    EXPECT_TRUE(std::isfinite(be->to_host(sum)[0]));
    for (const float value : be->gradient(student)) EXPECT_TRUE(std::isfinite(value));
  }
}

// Losses by rows are those of the logits, values and gradients, over several blocks of rows.
TEST_F(TorchDivergence, HeadLossesAreThoseOfTheLogits) {
  const int64_t n = 300, d = 6, vocab = 40;
  const Tensor head = trainable(*be, in, {vocab, d}), teacher_head = trainable(*be, in, {vocab, 3});
  const Tensor teacher_state = trainable(*be, in, {n, 3});
  std::vector<Tensor> states;
  for (int exit = 0; exit < 3; ++exit) states.push_back(trainable(*be, in, {n, d}));
  std::vector<Tensor> weights = states;
  weights.push_back(head);
  std::vector<int32_t> labels;
  for (int32_t i = 0; i < n; ++i) labels.push_back(i * 7 % vocab);
  const auto logits = [&](const Tensor& state, const Tensor& by) {
    return be->linear(state, LinearWeight{.weight = by});
  };
  for (const Divergence kind : kAll) {
    SCOPED_TRACE(static_cast<int>(kind));
    const HeadTeacher teacher{teacher_state, teacher_head, kind, 1.5f, 0.7};
    const HeadExit exits[] = {{states[0], 0.3, 0.2}, {states[1], 0.5, 0}, {states[2], 1.1, 0}};
    const auto gradients = [&](const Tensor& loss) {
      be->zero_gradients(weights);
      be->backward(be->scale(loss, 0.01f));
      std::vector<std::vector<float>> all;
      for (const Tensor& weight : weights) all.push_back(be->gradient(weight));
      return all;
    };
    const HeadLosses found = be->head_losses(exits, head, &teacher, labels, /*tokens=*/true);
    const auto by_rows = gradients(found.loss);
    EXPECT_EQ(be->gradient(teacher_head), std::vector<float>(vocab * 3));

    const Tensor output = logits(states[2], head);
    Tensor loss;
    for (size_t exit = 0; exit < 3; ++exit) {
      const Tensor here = logits(states[exit], head);
      const Tensor ce = be->cross_entropy_sum(here, labels);
      EXPECT_NEAR(found.ce[exit], be->to_host(ce)[0], 1e-2);
      EXPECT_EQ(found.tokens[exit], be->argmax(here));
      loss = loss ? be->add(loss, ce, static_cast<float>(exits[exit].ce))
                  : be->scale(ce, static_cast<float>(exits[exit].ce));
      if (exits[exit].kd == 0) continue;
      const Tensor kd = be->divergence_sum(output, here, Divergence::ForwardKl, 1);
      EXPECT_NEAR(found.kd[exit], be->to_host(kd)[0], 1e-2);
      loss = be->add(loss, kd, static_cast<float>(exits[exit].kd));
    }
    const Tensor from_teacher =
        be->divergence_sum(logits(teacher_state, teacher_head), output, kind, 1.5f);
    EXPECT_NEAR(found.divergence, be->to_host(from_teacher)[0], 1e-2);
    loss = be->add(loss, from_teacher, 0.7f);
    EXPECT_NEAR(be->to_host(found.loss)[0], be->to_host(loss)[0], 1e-2);
    const auto expected = gradients(loss);
    for (size_t i = 0; i < expected.size(); ++i) expect_near(expected[i], by_rows[i], 1e-5);
  }
}

TEST_F(TorchDivergence, HeadLossesWithoutAGraph) {
  const Tensor head = trainable(*be, in, {8, 4}), state = trainable(*be, in, {3, 4});
  const HeadExit exits[] = {{state, 1, 0}};
  const std::vector<int32_t> labels = {1, 2, 3};
  be->set_recording(false);
  const HeadLosses found = be->head_losses(exits, head, nullptr, labels, /*tokens=*/false);
  be->set_recording(true);
  EXPECT_NEAR(be->to_host(found.loss)[0], found.ce[0], 1e-5);
  EXPECT_TRUE(found.tokens.empty());
  EXPECT_TRUE(be->has_plain_values(head));
}

TEST_F(TorchDivergence, DetachedValuesAreConstants) {
  const Tensor w = trainable(*be, in, {4});
  const std::vector<float> c = {1, 2, 3, 4};
  be->backward(weighted_sum(*be, be->mul(w, be->detach(w)), c));
  const std::vector<float> values = be->to_host(w);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(be->gradient(w)[i], c[i] * values[i]);
}

TEST_F(TorchDivergence, ArgmaxByRow) {
  const Tensor x = be->from_host(std::vector<float>{1, 3, 2, 5, 5, 4}, {2, 3});
  EXPECT_EQ(be->argmax(x), (std::vector<int32_t>{1, 0}));
}

}  // namespace
}  // namespace reprise::testing
