#include "convert/looped/weighted.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "convert/looped/lapack.h"

namespace reprise {
namespace {

using lapack::Op;

// m c [out, in], c [in, in].
std::vector<double> times(std::span<const double> m, int64_t out, int64_t in,
                          std::span<const float> c) {
  const std::vector<double> wide(c.begin(), c.end());
  std::vector<double> product(static_cast<size_t>(out * in));
  lapack::gemm(out, in, in, 1.0, {m.data(), in}, {wide.data(), in}, 0.0, product.data(), in);
  return product;
}

[[noreturn]] void not_positive(int64_t in) {
  fail("second moments of {} inputs aren't positive definite", in);
}

double dot(const std::vector<double>& a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// c = S S^T with S lower triangular, [in, in] row-major; what lies above isn't set to zero.
std::vector<double> cholesky(std::span<const float> c, int64_t in) {
  std::vector<double> s(c.begin(), c.end());
  if (!lapack::cholesky(in, s.data())) not_positive(in);
  return s;
}

// As lapack::largest_eigenvalues, in the order of singular values: the largest first.
lapack::Eigenvalues largest_first(int64_t n, int64_t count, double* upper) {
  lapack::Eigenvalues e = lapack::largest_eigenvalues(n, count, upper);
  std::ranges::reverse(e.values);
  for (int64_t r = 0; r < count / 2; ++r)
    std::swap_ranges(e.vectors.begin() + r * n, e.vectors.begin() + (r + 1) * n,
                     e.vectors.begin() + (count - 1 - r) * n);
  return e;
}

std::vector<double> difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<double> d(a.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = double{a[i]} - b[i];
  return d;
}

}  // namespace

double weighted_squares(std::span<const double> m, int64_t out, int64_t in,
                        std::span<const float> c) {
  const std::vector<double> mc = times(m, out, in, c);
  return dot(mc, m);
}

LowRankFactors weighted_low_rank(const std::vector<double>& m, int64_t out, int64_t in,
                                 std::span<const float> c, int64_t rank, uint64_t seed) {
  REPRISE_CHECK(static_cast<int64_t>(m.size()) == out * in && rank >= 0 &&
                static_cast<int64_t>(c.size()) == in * in);
  rank = std::min({rank, out, in});
  LowRankFactors f = zero_low_rank(out, in, rank, seed);
  if (out <= in && out <= kExactDecomposition) {
    // m S S^T m^T = U s^2 U^T, and A = s^-1 U^T m needs no S.
    const std::vector<double> mc = times(m, out, in, c);
    std::vector<double> g(static_cast<size_t>(out * out));
    lapack::gemm(out, out, in, 1.0, {mc.data(), in}, {m.data(), in, Op::Transpose}, 0.0, g.data(),
                 out);
    double squares = 0;
    for (int64_t i = 0; i < out; ++i) squares += g[static_cast<size_t>(i * out + i)];
    if (!std::isfinite(squares))
      fail("a matrix of {} x {} or its inputs hold values that aren't finite", out, in);
    f.residual = std::sqrt(std::max(0.0, squares));
    if (squares <= 0 || rank == 0) return f;
    const lapack::Eigenvalues e = largest_first(out, rank, g.data());
    std::vector<double> a(static_cast<size_t>(rank * in));  // U^T m
    lapack::gemm(rank, in, out, 1.0, {e.vectors.data(), out}, {m.data(), in}, 0.0, a.data(), in);
    double kept = 0;
    for (int64_t r = 0; r < rank; ++r) {
      const double square = e.values[static_cast<size_t>(r)];
      // Directions that are only rounding keep their Gaussian A, and B zero.
      if (square <= 1e-13 * e.values[0]) continue;
      const double s = std::sqrt(square);
      kept += square;
      for (int64_t i = 0; i < in; ++i)
        f.a[static_cast<size_t>(r * in + i)] =
            static_cast<float>(a[static_cast<size_t>(r * in + i)] / s);
      for (int64_t j = 0; j < out; ++j)
        f.b[static_cast<size_t>(j * rank + r)] =
            static_cast<float>(e.vectors[static_cast<size_t>(r * out + j)] * s);
    }
    f.kept = std::sqrt(std::min(kept, squares));
    return f;
  }
  const std::vector<double> s = cholesky(c, in);
  std::vector<double> ms = m;
  lapack::times_lower(out, in, s.data(), ms.data());
  std::vector<double> v;  // rows V^T, [rank, in], then A = V^T S^-1
  if (std::min(out, in) > kExactDecomposition) {
    f = low_rank(std::move(ms), out, in, rank, seed);
    v.assign(f.a.begin(), f.a.end());
    if (f.residual == 0) return f;
  } else {
    std::vector<double> g(static_cast<size_t>(in * in));
    lapack::gram(out, in, ms.data(), g.data());
    double squares = 0;
    for (int64_t i = 0; i < in; ++i) squares += g[static_cast<size_t>(i * in + i)];
    if (!std::isfinite(squares))
      fail("a matrix of {} x {} or its inputs hold values that aren't finite", out, in);
    f.residual = std::sqrt(squares);
    if (squares == 0 || rank == 0) return f;
    lapack::Eigenvalues e = largest_first(in, rank, g.data());
    std::vector<double> b(static_cast<size_t>(out * rank));  // m S V
    lapack::gemm(out, rank, in, 1.0, {ms.data(), in}, {e.vectors.data(), in, Op::Transpose}, 0.0,
                 b.data(), rank);
    std::ranges::transform(b, f.b.begin(), [](double x) { return static_cast<float>(x); });
    double kept = 0;
    for (const double square : e.values) kept += std::max(0.0, square);
    f.kept = std::sqrt(std::min(kept, squares));
    v = std::move(e.vectors);
  }
  lapack::over_lower(f.rank, in, s.data(), v.data());
  std::ranges::transform(v, f.a.begin(), [](double x) { return static_cast<float>(x); });
  return f;
}

std::vector<double> solve_moments(std::vector<double> product, int64_t out, int64_t in,
                                  std::vector<double> c) {
  if (!lapack::over_positive(out, in, c.data(), product.data())) not_positive(in);
  return product;
}

std::vector<double> matrix_for_inputs(const std::vector<float>& m, int64_t out, int64_t in,
                                      std::span<const float> c, double damping,
                                      std::span<const float> cross, std::span<const float> behind) {
  const std::vector<double> wide(m.begin(), m.end());
  std::vector<double> product = times(wide, out, in, cross);
  for (size_t i = 0; i < product.size(); ++i)
    product[i] += damping * wide[i] + (behind.empty() ? 0.0 : behind[i]);
  return solve_moments(std::move(product), out, in, std::vector<double>(c.begin(), c.end()));
}

namespace {

class Fit {
 public:
  Fit(const std::vector<FitTarget>& targets, int64_t out, int64_t in, int64_t rank, uint64_t seed)
      : targets_(targets), out_(out), in_(in), rank_(std::min({rank, out, in})), seed_(seed) {
    for (const FitTarget& target : targets) {
      const std::vector<double> m(target.matrix.begin(), target.matrix.end());
      products_.push_back(times(m, out, in, target.c));
      const double squares = dot(products_.back(), m);
      weights_.push_back(squares > 0 ? 1 / squares : 0);
      result_.norms.push_back(std::sqrt(std::max(0.0, squares)));
    }
    // A matrix that is zero in every layer: whatever weight, the fit is zero.
    if (std::ranges::max(weights_) == 0) std::ranges::fill(weights_, 1.0);
    result_.adapters.assign(targets.size(), zero_low_rank(out, in, rank_, seed));
  }

  void start_with_mean() {
    const auto share = 1 / static_cast<double>(targets_.size());
    std::vector<double> mean(static_cast<size_t>(out_ * in_));
    for (const FitTarget& target : targets_)
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += share * target.matrix[i];
    result_.shared.assign(mean.begin(), mean.end());
    solve_adapters();
  }

  void start_with_split() {
    REPRISE_CHECK(targets_.size() == 2);
    std::vector<float> c(targets_[0].c.size());
    const double sum = weights_[0] + weights_[1];  // any scale does
    for (size_t i = 0; i < c.size(); ++i)
      c[i] = static_cast<float>((weights_[0] * targets_[0].c[i] + weights_[1] * targets_[1].c[i]) /
                                sum);
    const LowRankFactors both = weighted_low_rank(
        difference(targets_[0].matrix, targets_[1].matrix), out_, in_, c, 2 * rank_, seed_);
    for (int target = 0; target < 2; ++target) {
      LowRankFactors& half = result_.adapters[static_cast<size_t>(target)];
      for (int64_t r = 0; r < rank_ && 2 * r + target < both.rank; ++r) {
        const int64_t from = 2 * r + target;
        std::copy_n(both.a.begin() + from * in_, in_, half.a.begin() + r * in_);
        for (int64_t j = 0; j < out_; ++j) {
          const float b = both.b[static_cast<size_t>(j * both.rank + from)];
          half.b[static_cast<size_t>(j * rank_ + r)] = target == 0 ? b : -b;
        }
      }
    }
    round();
  }

  void round() {
    solve_shared();
    solve_adapters();
  }

  SharedFit take() && { return std::move(result_); }

 private:
  void solve_adapters() {
    double sum = 0;
    for (size_t l = 0; l < targets_.size(); ++l) {
      LowRankFactors& f = result_.adapters[l];
      f = weighted_low_rank(difference(targets_[l].matrix, result_.shared), out_, in_,
                            targets_[l].c, rank_, seed_ + l);
      sum += weights_[l] * std::max(0.0, f.residual * f.residual - f.kept * f.kept);
    }
    result_.objective.push_back(sum / static_cast<double>(targets_.size()));
  }

  // W' = (sum w_l (W_l - B_l A_l) C_l) (sum w_l C_l)^-1
  void solve_shared() {
    std::vector<double> sum(static_cast<size_t>(out_ * in_));
    std::vector<double> moments(static_cast<size_t>(in_ * in_));
    const double scale = 1 / std::ranges::max(weights_);
    for (size_t l = 0; l < targets_.size(); ++l) {
      const LowRankFactors& f = result_.adapters[l];
      const double w = scale * weights_[l];
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += w * products_[l][i];
      if (f.rank > 0) {
        const std::vector<double> a(f.a.begin(), f.a.end()), b(f.b.begin(), f.b.end());
        const std::vector<double> ac = times(a, f.rank, in_, targets_[l].c);
        lapack::gemm(out_, in_, f.rank, -w, {b.data(), f.rank}, {ac.data(), in_}, 1.0, sum.data(),
                     in_);
      }
      for (size_t i = 0; i < moments.size(); ++i) moments[i] += w * targets_[l].c[i];
    }
    sum = solve_moments(std::move(sum), out_, in_, std::move(moments));
    result_.shared.assign(sum.begin(), sum.end());
  }

  const std::vector<FitTarget>& targets_;
  int64_t out_, in_, rank_;
  uint64_t seed_;
  std::vector<std::vector<double>> products_;  // M c
  std::vector<double> weights_;                // 1 / tr(M c M^T)
  SharedFit result_;
};

}  // namespace

SharedFit fit_shared(const std::vector<FitTarget>& targets, int64_t out, int64_t in, int64_t rank,
                     FitStart start, int rounds, uint64_t seed) {
  Fit fit(targets, out, in, rank, seed);
  if (start == FitStart::Split)
    fit.start_with_split();
  else
    fit.start_with_mean();
  for (int i = 0; i < rounds; ++i) fit.round();
  return std::move(fit).take();
}

}  // namespace reprise
