// The vector kernels of every instruction set: accuracy against double precision, values at the
// edges, and bits that don't depend on how a call is cut.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "backend/cpu/kernels/isa.h"
#include "backend/factory.h"
#include "base/half.h"
#include "base/rng.h"

namespace reprise::cpu {
namespace {

template <class Body>
void on_every_table(const Body& body) {
  for (const IsaInfo& info : cpu_instruction_sets()) {
    if (!info.runs) continue;
    SCOPED_TRACE(info.name);
    body(choose_kernels(info.name).vector);
  }
}

std::vector<float> random_values(int64_t count, float size) {
  Philox random(7, 0);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = size * (2 * random.next_uniform() - 1);
  return values;
}

double exact(UnaryKind kind, double x) {
  const auto sigmoid = [](double y) { return 1 / (1 + std::exp(-y)); };
  switch (kind) {
    case UnaryKind::Gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case UnaryKind::GeluTanh:
      return x * sigmoid(2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    case UnaryKind::QuickGelu:
      return x * sigmoid(1.702 * x);
    case UnaryKind::Silu:
      return x * sigmoid(x);
    case UnaryKind::Sigmoid:
      return sigmoid(x);
    case UnaryKind::Tanh:
      return std::tanh(x);
    case UnaryKind::Relu:
      return std::max(x, 0.0);
  }
  return 0;
}

constexpr UnaryKind kKinds[] = {UnaryKind::Gelu, UnaryKind::GeluTanh, UnaryKind::QuickGelu,
                                UnaryKind::Silu, UnaryKind::Sigmoid,  UnaryKind::Tanh,
                                UnaryKind::Relu};

TEST(CpuVector, ActivationsAreAccurate) {
  on_every_table([](const VectorKernels& kernels) {
    for (const UnaryKind kind : kKinds) {
      std::vector<float> x;
      for (float value = -12; value <= 12; value += 0.00137f) x.push_back(value);
      std::vector<float> y(x.size());
      kernels.unary(kind, x.data(), static_cast<int64_t>(x.size()), y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = exact(kind, x[i]);
        // The bounded functions to 4e-7; the others are x times such a one.
        const bool bounded = kind == UnaryKind::Sigmoid || kind == UnaryKind::Tanh;
        const double allowed = 4e-7 * (bounded ? 1 : std::max(1.0, std::fabs(double{x[i]})));
        ASSERT_NEAR(y[i], expected, allowed) << "kind " << static_cast<int>(kind) << " of " << x[i];
      }
    }
  });
}

// sigmoid(-x) is e^-x for large x: shows the relative error of the exponential.
TEST(CpuVector, ExponentialsKeepTheirRelativePrecision) {
  on_every_table([](const VectorKernels& kernels) {
    for (float x = -86; x < -18; x += 0.0173f) {
      float y = 0;
      kernels.unary(UnaryKind::Sigmoid, &x, 1, &y);
      ASSERT_NEAR(y / std::exp(double{x}), 1, 3e-7) << x;
    }
    for (float x = 1e-6f; x < 0.6f; x *= 1.01f) {
      float y = 0;
      kernels.unary(UnaryKind::Tanh, &x, 1, &y);
      ASSERT_NEAR(y / std::tanh(double{x}), 1, 3e-7) << x;
    }
  });
}

TEST(CpuVector, ActivationsAtTheEdges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  on_every_table([](const VectorKernels& kernels) {
    const auto value = [&](UnaryKind kind, float x) {
      kernels.unary(kind, &x, 1, &x);
      return x;
    };
    EXPECT_EQ(value(UnaryKind::Sigmoid, kInfinity), 1);
    EXPECT_EQ(value(UnaryKind::Sigmoid, -kInfinity), 0);
    EXPECT_EQ(value(UnaryKind::Tanh, kInfinity), 1);
    EXPECT_EQ(value(UnaryKind::Tanh, -kInfinity), -1);
    for (const UnaryKind kind : kKinds) {
      EXPECT_TRUE(std::isnan(value(kind, NAN))) << static_cast<int>(kind);
      EXPECT_FALSE(std::isnan(value(kind, 1e30f))) << static_cast<int>(kind);
      EXPECT_FALSE(std::isnan(value(kind, -1e30f))) << static_cast<int>(kind);
      EXPECT_EQ(value(kind, 0), kind == UnaryKind::Sigmoid ? 0.5f : 0.0f);
      if (kind != UnaryKind::Sigmoid && kind != UnaryKind::Tanh) {
        EXPECT_EQ(value(kind, 1000), 1000);
        EXPECT_EQ(value(kind, -1000), 0);
      }
    }
  });
}

// An element's bits don't depend on where in a call it stands.
TEST(CpuVector, ElementWiseWorkMayBeCutAnywhere) {
  constexpr int64_t kCount = 53;
  const std::vector<float> a = random_values(kCount, 4), b = random_values(kCount, 1);
  on_every_table([&](const VectorKernels& kernels) {
    using Run = std::function<void(int64_t begin, int64_t n, float* out)>;
    std::vector<Run> runs;
    for (const UnaryKind kind : kKinds) {
      runs.push_back([&, kind](int64_t at, int64_t n, float* out) {
        kernels.unary(kind, a.data() + at, n, out);
      });
      runs.push_back([&, kind](int64_t at, int64_t n, float* out) {
        kernels.glu(kind, a.data() + at, b.data() + at, n, out);
      });
    }
    runs.push_back([&](int64_t at, int64_t n, float* out) {
      kernels.add_scaled(a.data() + at, b.data() + at, 0.3f, n, out);
    });
    runs.push_back([&](int64_t at, int64_t n, float* out) {
      kernels.lerp(a.data() + at, b.data() + at, 0.3f, n, out);
    });
    for (size_t r = 0; r < runs.size(); ++r) {
      std::vector<float> whole(kCount);
      runs[r](0, kCount, whole.data());
      for (int64_t begin = 0; begin < kCount; ++begin)
        for (const int64_t n : {1, 2, 7, 8, 15, 16, 31}) {
          if (begin + n > kCount) continue;
          std::vector<float> part(static_cast<size_t>(n) + 1, 99.0f);
          runs[r](begin, n, part.data());
          EXPECT_EQ(std::memcmp(part.data(), whole.data() + begin, static_cast<size_t>(n) * 4), 0)
              << "function " << r << " from " << begin << ", " << n;
          EXPECT_EQ(part.back(), 99.0f) << "written past the end";
        }
    }
  });
}

TEST(CpuVector, ToF16RoundsAsTheOracleDoes) {
  std::vector<float> x = {0.0f,   -0.0f,          1.0f,           65504.0f,  65519.9f, 65520.0f,
                          1e10f,  -1e10f,         6.1e-5f,        5.96e-8f,  2.98e-8f, 2.99e-8f,
                          1e-10f, 1.00048828125f, 1.00146484375f, 0.333333f, INFINITY};
  for (const float value : random_values(400, 3)) x.push_back(value);
  for (const float value : random_values(400, 1e-5f)) x.push_back(value);
  on_every_table([&](const VectorKernels& kernels) {
    std::vector<uint16_t> found(x.size());
    kernels.to_f16(x.data(), static_cast<int64_t>(x.size()), found.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(found[i], float_to_f16(x[i])) << x[i];
  });
}

// ---- attend

// `count` rows of keys as a page holds them: component by component, NaN where there is no key.
template <class T>
std::vector<T> page_keys(const T* rows, int64_t count, int64_t stride, int64_t dim, T nan) {
  std::vector<T> page(static_cast<size_t>(dim * kAttendBlock), nan);
  for (int64_t key = 0; key < count; ++key)
    for (int64_t d = 0; d < dim; ++d)
      page[static_cast<size_t>(d * kAttendBlock + key)] = rows[key * stride + d];
  return page;
}

// Widths that need every number of vectors at a time and a part of one; rows of keys and values lie
// further apart than they are wide.
struct Attention {
  static constexpr int64_t kDim = 45, kValueDim = 253, kKeys = 141, kQueries = 30;
  static constexpr int64_t kStride = 48, kValueStride = 260;
  static constexpr uint16_t kHalfNan = 0x7e00;
  std::vector<float> q = random_values(kQueries * kDim, 2);
  std::vector<float> k = random_values(kKeys * kStride, 1);
  std::vector<float> v = random_values((kKeys + kAttendBlock) * kValueStride, 1);
  std::vector<uint16_t> k_half, v_half;

  Attention() {
    for (float& value : k) k_half.push_back(float_to_f16(value));
    for (float& value : v) v_half.push_back(float_to_f16(value));
    for (size_t i = 0; i < k.size(); ++i) k[i] = f16_to_float(k_half[i]);
    for (size_t i = 0; i < v.size(); ++i) v[i] = f16_to_float(v_half[i]);
  }

  // What query i sees: the same as its neighbours, as the heads of a row do, or not; later ones
  // begin behind the first block.
  AttendQuery query(int64_t i, float* out) const {
    const int64_t row = i < 21 ? i / 7 : i - 18;
    return {.q = q.data() + i * kDim, .out = out, .begin = row * 4, .end = 60 + 5 * row};
  }
  // The keys cut into runs of `each`.
  std::vector<float> run(const VectorKernels& kernels, int64_t first, int64_t last, int64_t each,
                         KvLayout layout, float softcap = 0) const {
    std::vector<std::vector<float>> pages;
    std::vector<std::vector<uint16_t>> half_pages;
    std::vector<KvRun> list;
    for (int64_t at = 0; at < kKeys; at += each) {
      KvRun run = {.k = k.data() + at * kStride,
                   .v = v.data() + at * kValueStride,
                   .count = std::min(each, kKeys - at),
                   .k_stride = kStride,
                   .v_stride = kValueStride,
                   .layout = layout};
      if (layout == KvLayout::PageF32) {
        pages.push_back(page_keys<float>(k.data() + at * kStride, run.count, kStride, kDim, NAN));
        run.k = pages.back().data();
      } else if (layout == KvLayout::PageF16) {
        half_pages.push_back(
            page_keys(k_half.data() + at * kStride, run.count, kStride, kDim, kHalfNan));
        run.k = half_pages.back().data();
        run.v = v_half.data() + at * kValueStride;
      }
      list.push_back(run);
    }
    std::vector<float> out(static_cast<size_t>((last - first) * kValueDim));
    std::vector<AttendQuery> queries;
    for (int64_t i = first; i < last; ++i)
      queries.push_back(query(i, out.data() + (i - first) * kValueDim));
    const int64_t span = queries.back().end - queries.front().begin;
    const int64_t size =
        (last - first) * (span + kAttendPad) + kAttendBlock * std::max(kDim, kValueDim);
    constexpr float kCanary = 99;
    std::vector<float> scratch(static_cast<size_t>(size) + 2, NAN);
    scratch.front() = scratch.back() = kCanary;
    kernels.attend(queries.data(), last - first, list.data(), static_cast<int64_t>(list.size()),
                   kDim, kValueDim, 0.3f, softcap, scratch.data() + 1);
    EXPECT_EQ(scratch.front(), kCanary);
    EXPECT_EQ(scratch.back(), kCanary);
    return out;
  }
};

TEST(CpuVector, AttendIsAccurate) {
  const Attention attention;
  on_every_table([&](const VectorKernels& kernels) {
    for (const float softcap : {0.0f, 0.7f}) {
      const auto found = attention.run(kernels, 0, Attention::kQueries, Attention::kKeys,
                                       KvLayout::Rows, softcap);
      for (int64_t i = 0; i < Attention::kQueries; ++i) {
        const AttendQuery query = attention.query(i, nullptr);
        std::vector<double> result(Attention::kValueDim);
        double sum = 0;
        for (int64_t key = query.begin; key < query.end; ++key) {
          const float* row = attention.k.data() + key * Attention::kStride;
          double score =
              0.3f * std::inner_product(query.q, query.q + Attention::kDim, row, 0.0);
          if (softcap > 0) score = softcap * std::tanh(score / softcap);
          const double weight = std::exp(score);
          sum += weight;
          for (int64_t d = 0; d < Attention::kValueDim; ++d)
            result[static_cast<size_t>(d)] +=
                weight * attention.v[static_cast<size_t>(key * Attention::kValueStride + d)];
        }
        for (int64_t d = 0; d < Attention::kValueDim; ++d)
          EXPECT_NEAR(found[static_cast<size_t>(i * Attention::kValueDim + d)],
                      result[static_cast<size_t>(d)] / sum, 2e-6);
      }
    }
  });
}

TEST(CpuVector, AttendDependsOnNeitherRunsNorNeighbours) {
  const Attention attention;
  on_every_table([&](const VectorKernels& kernels) {
    const auto capped = [&](int64_t each, KvLayout layout) {
      return attention.run(kernels, 0, Attention::kQueries, each, layout, 0.7f);
    };
    EXPECT_EQ(capped(32, KvLayout::PageF16), capped(Attention::kKeys, KvLayout::Rows));
    const auto expected =
        attention.run(kernels, 0, Attention::kQueries, Attention::kKeys, KvLayout::Rows);
    for (const KvLayout layout : {KvLayout::Rows, KvLayout::PageF32, KvLayout::PageF16})
      for (const int64_t each : {1, 7, 32, 64}) {
        if (layout != KvLayout::Rows && each > kAttendBlock) continue;
        EXPECT_EQ(attention.run(kernels, 0, Attention::kQueries, each, layout), expected)
            << "runs of " << each << ", layout " << static_cast<int>(layout);
      }
    for (int64_t first = 0; first < Attention::kQueries; ++first)
      for (int64_t last = first + 1; last <= Attention::kQueries; ++last) {
        const std::vector<float> part(expected.begin() + first * Attention::kValueDim,
                                      expected.begin() + last * Attention::kValueDim);
        EXPECT_EQ(attention.run(kernels, first, last, 32, KvLayout::PageF32), part)
            << "queries " << first << " to " << last;
      }
  });
}

}  // namespace
}  // namespace reprise::cpu
