// Helpers of the torch backend's tests: the backend, trainable inputs, and gradients by finite
// differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "backend/factory.h"
#include "backend/train_backend.h"
#include "support/paths.h"
#include "support/torch_device.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {

// Recording is on, as in training.
inline std::unique_ptr<TrainBackend> torch_backend(int threads = 1) {
  ::setenv("REPRISE_PLUGIN_DIR", std::filesystem::path(test::program()).parent_path().c_str(),
           /*overwrite=*/0);
  auto be = make_torch_backend({.threads = threads, .device = test::torch_device()});
  be->set_recording(true);
  return be;
}

inline Tensor bind_floats(Backend& be, std::span<const float> values, const Shape& shape) {
  HostTensor source;
  source.shape = shape;
  source.bytes = std::as_bytes(values);
  return be.bind(source, WeightUse::Vector);
}

// A weight with random values in [-size, size] that takes gradients.
inline Tensor trainable(TrainBackend& be, Inputs& in, const Shape& shape, float size = 1.0f) {
  const Tensor weight = bind_floats(be, in.values(num_elements(shape), size), shape);
  be.set_trainable(weight, true);
  return weight;
}

inline std::vector<int32_t> iota(int64_t count, int32_t first = 0) {
  std::vector<int32_t> list(static_cast<size_t>(count));
  std::iota(list.begin(), list.end(), first);
  return list;
}

inline void expect_near(const std::vector<float>& expected, const std::vector<float>& found,
                        double tolerance) {
  ASSERT_EQ(expected.size(), found.size());
  double largest = 1;
  for (float value : expected) largest = std::max(largest, std::fabs(double{value}));
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(expected[i], found[i], tolerance * largest) << "at " << i;
}

// sum_i c_i y_i with fixed c, as a tensor [1]: a loss that weighs every output differently.
inline Tensor weighted_sum(TrainBackend& be, const Tensor& y, std::span<const float> c) {
  LinearWeight w;
  w.weight = bind_floats(be, c, {1, y.size()});
  return be.reshape(be.linear(be.reshape(y, {1, y.size()}), w), {1});
}

// Compares the backward pass of `function` with central differences, for every element of every
// weight. F32 leaves about 1e-7 of the loss / (2 step) as noise beside an error of order step^2.
inline void check_gradients(TrainBackend& be, std::span<const Tensor> weights,
                            const std::function<Tensor()>& function, double tolerance = 2e-3,
                            float step = 1e-2f) {
  Inputs in(99);
  const Tensor y = function();
  const std::vector<float> c = in.values(y.size());
  const auto loss = [&] {
    const std::vector<float> values = be.to_host(function());
    return std::inner_product(values.begin(), values.end(), c.begin(), 0.0);
  };
  be.zero_gradients(weights);
  be.backward(weighted_sum(be, y, c));
  std::vector<std::vector<float>> found;
  for (const Tensor& weight : weights) found.push_back(be.gradient(weight));
  be.set_recording(false);
  for (size_t w = 0; w < weights.size(); ++w) {
    std::vector<float> values = be.to_host(weights[w]);
    std::vector<float> expected(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = values[i];
      const float high = value + step, low = value - step;
      values[i] = high;
      be.assign(weights[w], values);
      const double above = loss();
      values[i] = low;
      be.assign(weights[w], values);
      const double below = loss();
      values[i] = value;
      expected[i] = static_cast<float>((above - below) / (double{high} - low));
    }
    be.assign(weights[w], values);
    SCOPED_TRACE(::testing::Message() << "weight " << w);
    expect_near(expected, found[w], tolerance);
    EXPECT_GT(std::inner_product(expected.begin(), expected.end(), expected.begin(), 0.0), 0)
        << "nothing to compare: the function doesn't depend on weight " << w;
  }
  be.set_recording(true);
}

}  // namespace reprise::testing
