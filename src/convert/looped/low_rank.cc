#include "convert/looped/low_rank.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "convert/looped/lapack.h"

namespace reprise {
namespace {

using lapack::Op;

// The largest `rank` singular values and vectors, nearly: the range of M^T is found by multiplying
// random vectors with it a few times.
lapack::Svd decompose_randomized(const std::vector<double>& m, int64_t out, int64_t in,
                                 int64_t rank, uint64_t seed) {
  constexpr int kPowerIterations = 3;
  const int64_t count = std::min({rank + std::max<int64_t>(16, rank / 8), out, in});
  // x M [count, in] for x [count, out], and x M^T [count, out] for x [count, in].
  const auto times_m = [&](const std::vector<double>& x) {
    std::vector<double> y(static_cast<size_t>(count * in));
    lapack::gemm(count, in, out, 1.0, {x.data(), out}, {m.data(), in}, 0.0, y.data(), in);
    return y;
  };
  const auto times_transpose = [&](const std::vector<double>& x) {
    std::vector<double> y(static_cast<size_t>(count * out));
    lapack::gemm(count, out, in, 1.0, {x.data(), in}, {m.data(), in, Op::Transpose}, 0.0, y.data(),
                 out);
    return y;
  };
  const Philox random(seed, 1);
  std::vector<double> start(static_cast<size_t>(count * out));
  for (size_t i = 0; i < start.size(); ++i) start[i] = random.normal(i);
  std::vector<double> q = times_m(start);
  lapack::orthonormalize_rows(count, in, q.data());
  for (int i = 0; i < kPowerIterations; ++i) {
    std::vector<double> z = times_transpose(q);
    lapack::orthonormalize_rows(count, out, z.data());
    q = times_m(z);
    lapack::orthonormalize_rows(count, in, q.data());
  }
  // M ~ (q M^T)^T q, and q M^T is small: with u s v = q M^T it is v^T s (u^T q).
  std::vector<double> small = times_transpose(q);
  const lapack::Svd part = lapack::svd(count, out, small.data());
  const int64_t n = std::min(count, out);
  lapack::Svd d;
  d.s = part.s;
  d.u.resize(static_cast<size_t>(out * n));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < out; ++j)
      d.u[static_cast<size_t>(j * n + i)] = part.v[static_cast<size_t>(i * out + j)];
  d.v.resize(static_cast<size_t>(n * in));
  lapack::gemm(n, in, count, 1.0, {part.u.data(), n, Op::Transpose}, {q.data(), in}, 0.0,
               d.v.data(), in);
  return d;
}

}  // namespace

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
  rank = std::min({rank, out, in});
  double squares = 0;
  for (const double x : m) squares += x * x;
  if (!std::isfinite(squares)) fail("a matrix of {} x {} holds values that aren't finite", out, in);
  if (squares == 0 || rank == 0) return zero_low_rank(out, in, rank, seed);
  const int64_t n = std::min(out, in);
  const bool exact = n <= kExactDecomposition || 2 * rank >= n;
  const lapack::Svd d =
      exact ? lapack::svd(out, in, m.data()) : decompose_randomized(m, out, in, rank, seed);
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
          static_cast<float>(s * d.u[static_cast<size_t>(j * stride + i)]);
  }
  factors.kept = std::sqrt(kept);
  return factors;
}

LowRankFactors in_singular_form(LowRankFactors factors, int64_t out, int64_t in) {
  const int64_t rank = factors.rank;
  REPRISE_CHECK(std::ssize(factors.a) == rank * in && std::ssize(factors.b) == out * rank);
  if (rank == 0 || std::ranges::all_of(factors.b, [](float x) { return x == 0; })) return factors;
  const std::vector<double> a(factors.a.begin(), factors.a.end());
  const std::vector<double> b(factors.b.begin(), factors.b.end());
  std::vector<double> rows = a, columns(b.size());  // orthonormal bases [rank, in] and [rank, out]
  for (int64_t j = 0; j < out; ++j)
    for (int64_t r = 0; r < rank; ++r)
      columns[static_cast<size_t>(r * out + j)] = b[static_cast<size_t>(j * rank + r)];
  lapack::orthonormalize_rows(rank, in, rows.data());
  lapack::orthonormalize_rows(rank, out, columns.data());
  // B A = columns^T ((columns B) (A rows^T)) rows.
  const auto square = [&] { return std::vector<double>(static_cast<size_t>(rank * rank)); };
  std::vector<double> left = square(), right = square(), core = square();
  lapack::gemm(rank, rank, out, 1.0, {columns.data(), out}, {b.data(), rank}, 0.0, left.data(),
               rank);
  lapack::gemm(rank, rank, in, 1.0, {a.data(), in}, {rows.data(), in, Op::Transpose}, 0.0,
               right.data(), rank);
  lapack::gemm(rank, rank, rank, 1.0, {left.data(), rank}, {right.data(), rank}, 0.0, core.data(),
               rank);
  lapack::Svd d = lapack::svd(rank, rank, core.data());
  for (size_t i = 0; i < d.u.size(); ++i) d.u[i] *= d.s[i % static_cast<size_t>(rank)];
  std::vector<double> new_a(a.size()), new_b(b.size());
  lapack::gemm(rank, in, rank, 1.0, {d.v.data(), rank}, {rows.data(), in}, 0.0, new_a.data(), in);
  lapack::gemm(out, rank, rank, 1.0, {columns.data(), out, Op::Transpose}, {d.u.data(), rank}, 0.0,
               new_b.data(), rank);
  const auto narrow = [](double x) { return static_cast<float>(x); };
  std::ranges::transform(new_a, factors.a.begin(), narrow);
  std::ranges::transform(new_b, factors.b.begin(), narrow);
  return factors;
}

}  // namespace reprise
