// The backward pass of every operation of the torch backend, against finite differences. Values are
// covered by the conformance test; torch_block_gradients_test.cc checks whole blocks.
#include "backend/heads.h"
#include "unit/backend/torch_support.h"

namespace reprise::testing {
namespace {

class TorchGradients : public ::testing::Test {
 protected:
  Tensor weight(const Shape& shape, float size = 1.0f) { return trainable(*be, in, shape, size); }
  void check(std::vector<Tensor> weights, const std::function<Tensor()>& function,
             double tolerance = 2e-3) {
    check_gradients(*be, weights, function, tolerance);
  }

  std::unique_ptr<TrainBackend> be = torch_backend();
  Inputs in{7};
};

TEST_F(TorchGradients, GatherRows) {
  const Tensor x = weight({5, 2, 3});
  const std::vector<int32_t> rows = {4, 0, 0, 3, 4, 4};  // row 1 and 2 are read by nobody
  check({x}, [&] { return be->gather_rows(x, rows); });
}

TEST_F(TorchGradients, GatherRowsOfAView) {
  const Tensor x = weight({5, 4});
  const std::vector<int32_t> rows = {2, 2, 1};
  check({x}, [&] { return be->gather_rows(be->slice(x, 1, 1, 3), rows); });
}

TEST_F(TorchGradients, ReplaceRows) {
  const Tensor x = weight({6, 3}), rows = weight({2, 3});
  const std::vector<int32_t> at = {4, 1};
  check({x, rows}, [&] { return be->replace_rows(x, at, rows); });
}

TEST_F(TorchGradients, ShapeOperations) {
  const Tensor x = weight({2, 3, 4}), y = weight({2, 2, 4});
  check({x, y}, [&] {
    const Tensor parts[] = {be->slice(x, 1, 1, 3), y, x};
    return be->reshape(be->concat(parts, -2), {7, 8});
  });
}

TEST_F(TorchGradients, Patchify) {
  const Tensor x = weight({2, 2, 5, 7});  // borders are left out
  check({x}, [&] { return be->patchify(x, 2); });
}

TEST_F(TorchGradients, Embed) {
  const Tensor table = weight({5, 3});
  const std::vector<int32_t> ids = {1, 4, 1, 1};
  check({table}, [&] { return be->embed(table, ids); });
}

TEST_F(TorchGradients, RmsNorm) {
  for (const int64_t d : {1, 7, 16, 37}) {
    // 300 rows would take two partial sums; the test of one long sum is below.
    const Tensor x = weight({3, 2, d}, 2), w = weight({d});
    check({x, w}, [&] {
      return be->norm(x, {.kind = NormKind::Rms, .weight = w, .eps = 1e-2f, .offset = 1});
    });
    check({x}, [&] { return be->norm(x, {.kind = NormKind::Rms, .eps = 1e-2f}); });
  }
}

TEST_F(TorchGradients, RmsNormWeightOverManyRows) {
  const Tensor x = bind_floats(*be, in.values(600 * 3), {600, 3}), w = weight({3});
  check({w}, [&] { return be->norm(x, {.kind = NormKind::Rms, .weight = w, .eps = 1e-5f}); });
}

TEST_F(TorchGradients, LayerNorm) {
  const Tensor x = weight({3, 7}, 2), w = weight({7}), b = weight({7});
  check({x, w, b}, [&] {
    return be->norm(x, {.kind = NormKind::Layer, .weight = w, .bias = b, .eps = 1e-2f});
  });
}

TEST_F(TorchGradients, Elementwise) {
  const Tensor a = weight({2, 3, 4}), b = weight({3, 4}), per_row = weight({2, 3, 1}),
               other = weight({2, 3, 4});
  check({a, b}, [&] { return be->add(a, b, -0.7f); });
  check({a, b}, [&] { return be->mul(a, b); });
  check({a, per_row}, [&] { return be->mul(a, per_row); });
  check({a}, [&] { return be->scale(a, 3); });
  check({a, other, per_row}, [&] { return be->lerp(a, other, per_row); });
  for (const Unary kind : {Unary::Gelu, Unary::GeluTanh, Unary::QuickGelu, Unary::Silu,
                           Unary::Sigmoid, Unary::Tanh, Unary::Relu}) {
    SCOPED_TRACE(static_cast<int>(kind));
    check({a}, [&] { return be->unary(a, kind); });
    check({a, other}, [&] { return be->glu(a, other, kind); });
  }
}

TEST_F(TorchGradients, Rope) {
  const Tensor x = weight({3, 2, 10});
  std::vector<float> angles;  // [3, 2m], m = 4: two components stay as they are
  for (int row = 0; row < 3; ++row)
    for (int part = 0; part < 2; ++part)
      for (int i = 0; i < 4; ++i) {
        const float angle = 0.3f * static_cast<float>(row + 1) * static_cast<float>(i + 1);
        angles.push_back(part == 0 ? std::cos(angle) : std::sin(angle));
      }
  const Tensor turns = be->from_host(angles, {3, 8});
  for (const bool interleaved : {false, true})
    check({x}, [&] { return be->rope(x, turns, interleaved); });
}

TEST_F(TorchGradients, LinearWithAdaptersByRow) {
  const Tensor x = weight({5, 4});
  LinearWeight first = {.weight = weight({3, 4}), .bias = weight({3}), .adapters = {}};
  LinearWeight second = {.weight = weight({2, 4}), .bias = {}, .adapters = {}};
  first.adapters = {{weight({2, 4}), weight({3, 2}), 0.5f}, {weight({1, 4}), weight({3, 1}), 2}};
  second.adapters = {{}, {weight({2, 4}), weight({2, 2}), 1}};  // adapter 0 adds nothing here
  const LinearWeight* const both[] = {&first, &second};
  std::vector<Tensor> weights = {x, first.weight, first.bias, second.weight};
  for (const LinearWeight* w : both)
    for (const LowRank& adapter : w->adapters)
      if (adapter.a) {
        weights.push_back(adapter.a);
        weights.push_back(adapter.b);
      }
  const std::vector<int32_t> mixed = {1, -1, 0, 1, 0};
  check(weights, [&] {
    const std::vector<Tensor> y = be->linear(x, both, mixed);
    return be->concat(y, 1);
  });
  // One adapter for all rows takes another way through the code.
  const std::vector<int32_t> all = {1, 1, 1, 1, 1};
  check({x, first.weight, first.adapters[1].a, first.adapters[1].b},
        [&] { return be->linear(x, first, all); });
}

// Products large enough for oneDNN: rows that are padded and rows that aren't, both orders of the
// weight's gradient, against sums in double.
TEST_F(TorchGradients, LargeLinear) {
  const auto multiply = [](const std::vector<float>& a, const std::vector<float>& b, int64_t n,
                           int64_t k, int64_t m, bool a_turned, bool b_turned) {
    std::vector<float> c;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l)
          sum += double{a[static_cast<size_t>(a_turned ? l * n + i : i * k + l)]} *
                 b[static_cast<size_t>(b_turned ? j * k + l : l * m + j)];
        c.push_back(static_cast<float>(sum));
      }
    return c;
  };
  for (const bool bf16 : {false, true})
    for (const int64_t n : {71, 96})
      for (const auto& [in_width, out_width] : {std::pair(61, 130), std::pair(130, 61)}) {
        SCOPED_TRACE(fmt::format("{} rows, {} to {}, bf16 {}", n, in_width, out_width, bf16));
        be->set_bf16(bf16);
        const double tolerance = bf16 ? 0.02 : 1e-5;
        const Tensor x = weight({n, in_width}), w = weight({out_width, in_width}),
                     b = weight({out_width});
        const std::vector<float> xs = be->to_host(x), ws = be->to_host(w), bs = be->to_host(b);
        std::vector<float> expected = multiply(xs, ws, n, in_width, out_width, false, true);
        const std::vector<float> c = in.values(n * out_width);
        for (const bool with_bias : {false, true}) {
          const LinearWeight linear = {w, with_bias ? b : Tensor(), {}};
          if (with_bias)
            for (size_t i = 0; i < expected.size(); ++i) expected[i] += bs[i % bs.size()];
          const Tensor all[] = {x, w, b};
          be->zero_gradients(all);
          const Tensor y = be->linear(x, linear);
          be->set_bf16(false);  // for the sum below; the backward pass keeps its type
          be->backward(weighted_sum(*be, y, c));
          be->set_bf16(bf16);
          expect_near(expected, be->to_host(y), tolerance);
          expect_near(multiply(c, ws, n, out_width, in_width, false, false), be->gradient(x),
                      tolerance);
          expect_near(multiply(c, xs, out_width, n, in_width, true, false), be->gradient(w),
                      tolerance);
          if (with_bias)
            expect_near(multiply(std::vector<float>(static_cast<size_t>(n), 1.0f), c, 1, n,
                                 out_width, false, false),
                        be->gradient(b), tolerance);
        }
      }
  be->set_bf16(false);
}

TEST_F(TorchGradients, FullAttention) {
  const Tensor q = weight({4, 3, 2, 5}), k = weight({2, 4, 2, 5}), v = weight({2, 4, 2, 3});
  for (const std::vector<int32_t>& of :
       {std::vector<int32_t>{0, 0, 1, 1}, std::vector<int32_t>{1, 0, 0, 1}})
    check({q, k, v}, [&] { return be->full_attention(q, k, v, 0.6f, of); });
  const Tensor narrow = weight({4, 3, 2, 2}), same = weight({4, 4, 2, 2}),
               wide = weight({4, 4, 2, 6});
  check({narrow, same, wide}, [&] { return be->full_attention(narrow, same, wide, 0.6f); });
}

TEST_F(TorchGradients, CrossHeads) {
  const Tensor x = weight({3, 4, 5}), few = weight({3, 2, 5});
  LinearWeight q[2], o[2];
  std::vector<Tensor> keys[2], values[2], weights = {x, few};
  for (size_t c = 0; c < 2; ++c) {
    q[c].weight = weight({5, 5});
    o[c].weight = weight({5, 5});
    weights.insert(weights.end(), {q[c].weight, o[c].weight});
    for (int source = 0; source < 2; ++source) {
      keys[c].push_back(weight({c == 0 ? 4 : 2, 5}));
      values[c].push_back(weight({c == 0 ? 4 : 2, 5}));
      weights.insert(weights.end(), {keys[c].back(), values[c].back()});
    }
  }
  const std::vector<int32_t> of = {1, 0, 1};
  check(weights, [&] {
    const HeadCross parts[] = {{x, &q[0], &o[0], keys[0], values[0], 0.5f},
                               {few, &q[1], &o[1], keys[1], values[1], 1.0f}};
    return be->concat(cross_heads(*be, parts, 0.6f, of), 1);
  });
}

TEST_F(TorchGradients, GateHalves) {
  const Tensor x = weight({3, 2, 10});
  const LinearWeight first = {.weight = weight({1, 5}), .bias = weight({1}), .adapters = {}};
  const LinearWeight second = {.weight = weight({1, 5}), .bias = weight({1}), .adapters = {}};
  check({x, first.weight, first.bias, second.weight, second.bias},
        [&] { return gate_halves(*be, x, 0.7f, first, second).first; });
}

// A regular layout of kv_of is a view, an irregular one a gather: the same values.
TEST_F(TorchGradients, FullAttentionOfRegularAndIrregularSourcesAgree) {
  const Tensor q = in.tensor(*be, {4, 3, 2, 5}), k = in.tensor(*be, {2, 4, 2, 5}),
               v = in.tensor(*be, {2, 4, 2, 5});
  const std::vector<int32_t> regular = {0, 0, 1, 1}, swapped = {0, 1, 0, 1};
  const std::vector<int32_t> swap = {0, 2, 1, 3};
  const Tensor a = be->full_attention(q, k, v, 0.4f, regular);
  const Tensor b = be->full_attention(be->gather_rows(q, swap), k, v, 0.4f, swapped);
  expect_near(be->to_host(be->gather_rows(a, swap)), be->to_host(b), 1e-6);
}

// The backward passes written here cut work by shape: the same bits on any number of threads. Sizes
// are large enough to be cut.
TEST(TorchThreads, OwnBackwardPassesDontDependOnThem) {
  const auto run = [](int threads) {
    const auto be = torch_backend(threads);
    Inputs in(23);
    const Tensor x = trainable(*be, in, {900, 64}), w = trainable(*be, in, {64});
    std::vector<int32_t> rows;
    for (int i = 0; i < 2000; ++i) rows.push_back(static_cast<int32_t>(in.below(900)));
    const Tensor angles = in.tensor(*be, {2000, 16});
    Tensor y = be->norm(x, {.kind = NormKind::Rms, .weight = w, .eps = 1e-5f});
    y = be->reshape(be->gather_rows(y, rows), {2000, 4, 16});
    y = be->rope(y, angles, false);
    be->backward(be->cross_entropy_sum(be->reshape(y, {2000, 64}), std::vector<int32_t>(2000, 3)));
    return std::vector<std::vector<float>>{be->to_host(y), be->gradient(x), be->gradient(w)};
  };
  EXPECT_EQ(run(1), run(3));
}

}  // namespace
}  // namespace reprise::testing
