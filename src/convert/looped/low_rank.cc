#include "convert/looped/low_rank.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/error.h"
#include "base/rng.h"

namespace reprise {
namespace {

void check(lapack_int info, const char* routine, int64_t out, int64_t in) {
  if (info == 0) return;
  fail("the decomposition of a matrix of {} x {} failed ({}: {})", out, in, routine, info);
}

// m [out, in] row-major is, column by column, its transpose [in, out]: M^T = V S U^T.
struct Decomposition {
  std::vector<double> s;   // [n], descending
  std::vector<double> v;   // row i: the i-th right singular vector, [n, in]
  std::vector<double> ut;  // column-major [n, out]
};

Decomposition decompose(std::vector<double>& m, int64_t out, int64_t in) {
  const int64_t n = std::min(out, in);
  Decomposition d;
  d.s.resize(static_cast<size_t>(n));
  d.v.resize(static_cast<size_t>(n * in));
  d.ut.resize(static_cast<size_t>(n * out));
  const auto rows = static_cast<lapack_int>(in), columns = static_cast<lapack_int>(out);
  check(LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', rows, columns, m.data(), rows, d.s.data(), d.v.data(),
                       rows, d.ut.data(), static_cast<lapack_int>(n)),
        "dgesdd", out, in);
  return d;
}

// An orthonormal basis of the columns of y [rows, columns], column-major, in its place.
void orthonormalize(std::vector<double>& y, int64_t rows, int64_t columns) {
  const auto m = static_cast<lapack_int>(rows), n = static_cast<lapack_int>(columns);
  std::vector<double> tau(static_cast<size_t>(columns));
  check(LAPACKE_dgeqrf(LAPACK_COL_MAJOR, m, n, y.data(), m, tau.data()), "dgeqrf", rows, columns);
  check(LAPACKE_dorgqr(LAPACK_COL_MAJOR, m, n, n, y.data(), m, tau.data()), "dorgqr", rows,
        columns);
}

// The largest `rank` singular values and vectors, nearly: the range of M^T is found by multiplying
// random vectors with it a few times.
Decomposition decompose_randomized(const std::vector<double>& m, int64_t out, int64_t in,
                                   int64_t rank, uint64_t seed) {
  constexpr int kPowerIterations = 3;
  const int64_t columns = std::min({rank + std::max<int64_t>(16, rank / 8), out, in});
  const auto product = [&](bool transposed, const std::vector<double>& x, int64_t x_rows) {
    // M^T x [in, columns] for x [out, columns], or M x the other way round.
    const int64_t rows = transposed ? out : in;
    std::vector<double> y(static_cast<size_t>(rows * columns));
    cblas_dgemm(CblasColMajor, transposed ? CblasTrans : CblasNoTrans, CblasNoTrans,
                static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(x_rows), 1.0,
                m.data(), static_cast<int>(in), x.data(), static_cast<int>(x_rows), 0.0, y.data(),
                static_cast<int>(rows));
    return y;
  };
  const Philox random(seed, 1);
  std::vector<double> start(static_cast<size_t>(out * columns));
  for (size_t i = 0; i < start.size(); ++i) start[i] = random.normal(i);
  std::vector<double> q = product(false, start, out);
  orthonormalize(q, in, columns);
  for (int i = 0; i < kPowerIterations; ++i) {
    std::vector<double> z = product(true, q, in);
    orthonormalize(z, out, columns);
    q = product(false, z, out);
    orthonormalize(q, in, columns);
  }
  // M q [out, columns]: its transpose is a small [columns, out] whose decomposition is q's part.
  std::vector<double> small = product(true, q, in);  // column-major [out, columns]
  // Column-major [out, columns] = W S P^T: then M^T ~ q (M q)^T = (q P) S W^T.
  const int64_t n = std::min(out, columns);
  std::vector<double> w(static_cast<size_t>(out * n)), pt(static_cast<size_t>(n * columns));
  Decomposition d;
  d.s.resize(static_cast<size_t>(n));
  check(LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', static_cast<lapack_int>(out),
                       static_cast<lapack_int>(columns), small.data(), static_cast<lapack_int>(out),
                       d.s.data(), w.data(), static_cast<lapack_int>(out), pt.data(),
                       static_cast<lapack_int>(n)),
        "dgesdd", out, columns);
  d.v.resize(static_cast<size_t>(n * in));
  cblas_dgemm(CblasColMajor, CblasNoTrans, CblasTrans, static_cast<int>(in), static_cast<int>(n),
              static_cast<int>(columns), 1.0, q.data(), static_cast<int>(in), pt.data(),
              static_cast<int>(n), 0.0, d.v.data(), static_cast<int>(in));
  d.ut.resize(static_cast<size_t>(n * out));
  for (int64_t j = 0; j < out; ++j)
    for (int64_t i = 0; i < n; ++i)
      d.ut[static_cast<size_t>(j * n + i)] = w[static_cast<size_t>(i * out + j)];
  return d;
}

}  // namespace

void blas_runs_in_callers_thread() {
  static std::once_flag done;
  std::call_once(done, [] { openblas_set_num_threads(1); });
}

LowRankFactors zero_low_rank(int64_t out, int64_t in, int64_t rank, uint64_t seed) {
  LowRankFactors factors;
  factors.rank = std::min({rank, out, in});
  factors.a.resize(static_cast<size_t>(factors.rank * in));
  factors.b.resize(static_cast<size_t>(out * factors.rank));
  const Philox random(seed, 0);
  const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(in)));
  for (size_t i = 0; i < factors.a.size(); ++i) factors.a[i] = deviation * random.normal(i);
  return factors;
}

LowRankFactors low_rank(std::vector<double> m, int64_t out, int64_t in, int64_t rank,
                        uint64_t seed) {
  REPRISE_CHECK(static_cast<int64_t>(m.size()) == out * in && rank >= 0);
  blas_runs_in_callers_thread();
  rank = std::min({rank, out, in});
  double squares = 0;
  for (const double x : m) squares += x * x;
  if (!std::isfinite(squares)) fail("a matrix of {} x {} holds values that aren't finite", out, in);
  if (squares == 0 || rank == 0) return zero_low_rank(out, in, rank, seed);
  const int64_t n = std::min(out, in);
  const bool exact = n <= kExactDecomposition || 2 * rank >= n;
  const Decomposition d =
      exact ? decompose(m, out, in) : decompose_randomized(m, out, in, rank, seed);
  LowRankFactors factors;
  factors.rank = rank;
  factors.residual = std::sqrt(squares);
  factors.a.resize(static_cast<size_t>(rank * in));
  factors.b.resize(static_cast<size_t>(out * rank));
  std::transform(d.v.begin(), d.v.begin() + rank * in, factors.a.begin(),
                 [](double x) { return static_cast<float>(x); });
  const auto stride = static_cast<int64_t>(d.s.size());
  double kept = 0;
  for (int64_t i = 0; i < rank; ++i) {
    const double s = d.s[static_cast<size_t>(i)];
    kept += s * s;
    for (int64_t j = 0; j < out; ++j)
      factors.b[static_cast<size_t>(j * rank + i)] =
          static_cast<float>(s * d.ut[static_cast<size_t>(j * stride + i)]);
  }
  factors.kept = std::sqrt(kept);
  return factors;
}

}  // namespace reprise
