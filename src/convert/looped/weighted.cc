#include "convert/looped/weighted.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace reprise {
namespace {

int as_int(int64_t n) { return static_cast<int>(n); }

// c = m^T m, or m m^T with `rows`: symmetric, both halves. m [out, in] row-major.
std::vector<double> gram(const std::vector<double>& m, int64_t out, int64_t in, bool rows) {
  const int64_t n = rows ? out : in, k = rows ? in : out;
  std::vector<double> g(static_cast<size_t>(n * n));
  cblas_dsyrk(CblasRowMajor, CblasUpper, rows ? CblasNoTrans : CblasTrans, as_int(n), as_int(k), 1,
              m.data(), as_int(in), 0, g.data(), as_int(n));
  return g;  // the upper triangle of it
}

// m c [out, in], c [in, in].
std::vector<double> times(std::span<const double> m, int64_t out, int64_t in,
                          std::span<const float> c) {
  const std::vector<double> wide(c.begin(), c.end());
  std::vector<double> product(static_cast<size_t>(out * in));
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(out), as_int(in), as_int(in), 1,
              m.data(), as_int(in), wide.data(), as_int(in), 0, product.data(), as_int(in));
  return product;
}

// c = S S^T with S lower triangular, [in, in] row-major; what lies above isn't set to zero.
std::vector<double> cholesky(std::span<const float> c, int64_t in) {
  std::vector<double> s(c.begin(), c.end());
  const lapack_int info = LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', as_int(in), s.data(), as_int(in));
  if (info != 0)
    fail("second moments of {} inputs aren't positive definite (dpotrf: {})", in, info);
  return s;
}

// The `rank` largest eigenvalues of a symmetric matrix given by its upper triangle, descending, and
// their eigenvectors as rows [rank, n].
struct Eigen {
  std::vector<double> values, vectors;
};
Eigen largest_eigenvalues(std::vector<double>& g, int64_t n, int64_t rank) {
  // Row-major upper is column-major lower.
  Eigen e;
  e.values.resize(static_cast<size_t>(n));
  std::vector<double> z(static_cast<size_t>(n * rank));
  std::vector<lapack_int> support(static_cast<size_t>(2 * rank));
  lapack_int found = 0;
  const lapack_int info = LAPACKE_dsyevr(
      LAPACK_COL_MAJOR, 'V', 'I', 'L', as_int(n), g.data(), as_int(n), 0, 0, as_int(n - rank + 1),
      as_int(n), 0, &found, e.values.data(), z.data(), as_int(n), support.data());
  if (info != 0 || found != rank)
    fail("the eigenvalues of a matrix of {} x {} could not be found (dsyevr: {})", n, n, info);
  e.values.resize(static_cast<size_t>(rank));
  std::ranges::reverse(e.values);
  e.vectors.resize(z.size());
  for (int64_t i = 0; i < rank; ++i)
    std::copy_n(z.begin() + (rank - 1 - i) * n, n, e.vectors.begin() + i * n);
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
  return cblas_ddot(as_int(out * in), mc.data(), 1, m.data(), 1);
}

LowRankFactors weighted_low_rank(const std::vector<double>& m, int64_t out, int64_t in,
                                 std::span<const float> c, int64_t rank, uint64_t seed) {
  REPRISE_CHECK(static_cast<int64_t>(m.size()) == out * in && rank >= 0 &&
                static_cast<int64_t>(c.size()) == in * in);
  blas_runs_in_callers_thread();
  rank = std::min({rank, out, in});
  LowRankFactors f = zero_low_rank(out, in, rank, seed);
  if (out <= in && out <= kExactDecomposition) {
    // m S S^T m^T = U s^2 U^T, and A = s^-1 U^T m needs no S.
    const std::vector<double> mc = times(m, out, in, c);
    std::vector<double> g(static_cast<size_t>(out * out));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_int(out), as_int(out), as_int(in), 1,
                mc.data(), as_int(in), m.data(), as_int(in), 0, g.data(), as_int(out));
    double squares = 0;
    for (int64_t i = 0; i < out; ++i) squares += g[static_cast<size_t>(i * out + i)];
    if (!std::isfinite(squares))
      fail("a matrix of {} x {} or its inputs hold values that aren't finite", out, in);
    f.residual = std::sqrt(std::max(0.0, squares));
    if (squares <= 0 || rank == 0) return f;
    const Eigen e = largest_eigenvalues(g, out, rank);
    std::vector<double> a(static_cast<size_t>(rank * in));  // U^T m
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(rank), as_int(in), as_int(out), 1,
                e.vectors.data(), as_int(out), m.data(), as_int(in), 0, a.data(), as_int(in));
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
  cblas_dtrmm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, as_int(out),
              as_int(in), 1, s.data(), as_int(in), ms.data(), as_int(in));
  std::vector<double> v;  // rows V^T, [rank, in], then A = V^T S^-1
  if (std::min(out, in) > kExactDecomposition) {
    f = low_rank(std::move(ms), out, in, rank, seed);
    v.assign(f.a.begin(), f.a.end());
    if (f.residual == 0) return f;
  } else {
    std::vector<double> g = gram(ms, out, in, /*rows=*/false);
    double squares = 0;
    for (int64_t i = 0; i < in; ++i) squares += g[static_cast<size_t>(i * in + i)];
    if (!std::isfinite(squares))
      fail("a matrix of {} x {} or its inputs hold values that aren't finite", out, in);
    f.residual = std::sqrt(squares);
    if (squares == 0 || rank == 0) return f;
    Eigen e = largest_eigenvalues(g, in, rank);
    std::vector<double> b(static_cast<size_t>(out * rank));  // m S V
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_int(out), as_int(rank), as_int(in), 1,
                ms.data(), as_int(in), e.vectors.data(), as_int(in), 0, b.data(), as_int(rank));
    std::ranges::transform(b, f.b.begin(), [](double x) { return static_cast<float>(x); });
    double kept = 0;
    for (const double square : e.values) kept += std::max(0.0, square);
    f.kept = std::sqrt(std::min(kept, squares));
    v = std::move(e.vectors);
  }
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, as_int(f.rank),
              as_int(in), 1, s.data(), as_int(in), v.data(), as_int(in));
  std::ranges::transform(v, f.a.begin(), [](double x) { return static_cast<float>(x); });
  return f;
}

std::vector<double> solve_moments(std::vector<double> product, int64_t out, int64_t in,
                                  std::vector<double> c) {
  // Row-major [out, in] is what LAPACK calls out right-hand sides.
  const lapack_int info = LAPACKE_dposv(LAPACK_COL_MAJOR, 'L', as_int(in), as_int(out), c.data(),
                                        as_int(in), product.data(), as_int(in));
  if (info != 0) fail("second moments of {} inputs aren't positive definite (dposv: {})", in, info);
  return product;
}

std::vector<double> matrix_for_inputs(const std::vector<float>& m, int64_t out, int64_t in,
                                      std::span<const float> c, double damping,
                                      std::span<const float> cross, std::span<const float> behind) {
  blas_runs_in_callers_thread();
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
      const double squares = cblas_ddot(as_int(out * in), products_.back().data(), 1, m.data(), 1);
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
      cblas_daxpy(as_int(out_ * in_), w, products_[l].data(), 1, sum.data(), 1);
      if (f.rank > 0) {
        const std::vector<double> a(f.a.begin(), f.a.end()), b(f.b.begin(), f.b.end());
        const std::vector<double> ac = times(a, f.rank, in_, targets_[l].c);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(out_), as_int(in_),
                    as_int(f.rank), -w, b.data(), as_int(f.rank), ac.data(), as_int(in_), 1,
                    sum.data(), as_int(in_));
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
  blas_runs_in_callers_thread();
  Fit fit(targets, out, in, rank, seed);
  if (start == FitStart::Split)
    fit.start_with_split();
  else
    fit.start_with_mean();
  for (int i = 0; i < rounds; ++i) fit.round();
  return std::move(fit).take();
}

}  // namespace reprise
