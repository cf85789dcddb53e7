#include "convert/looped/lapack.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace reprise {
namespace {

std::vector<double> random_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  const Philox random(seed, 0);
  std::vector<double> m(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < m.size(); ++i) m[i] = random.normal(i);
  return m;
}

// a b [m, n] by the definition, a [m, k], b [k, n].
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t k) {
  const auto depth = static_cast<size_t>(k), m = a.size() / depth, n = b.size() / depth;
  std::vector<double> c(m * n);
  for (size_t i = 0; i < m; ++i)
    for (size_t l = 0; l < depth; ++l)
      for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * depth + l] * b[l * n + j];
  return c;
}

std::vector<double> transpose(const std::vector<double>& m, int64_t columns) {
  const auto n = static_cast<size_t>(columns), rows = m.size() / n;
  std::vector<double> t(m.size());
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < n; ++j) t[j * rows + i] = m[i * n + j];
  return t;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-10) << i;
}

TEST(Lapack, SingularValuesGiveTheMatrixBack) {
  for (const auto& [rows, columns] : {std::pair{7, 4}, {4, 7}, {5, 5}, {1, 3}}) {
    const std::vector<double> m = random_matrix(rows, columns, 1);
    std::vector<double> consumed = m;
    lapack::Svd d = lapack::svd(rows, columns, consumed.data());
    const auto n = d.s.size();
    ASSERT_EQ(n, static_cast<size_t>(std::min(rows, columns)));
    EXPECT_TRUE(std::is_sorted(d.s.rbegin(), d.s.rend()));
    for (size_t i = 0; i < d.u.size(); ++i) d.u[i] *= d.s[i % n];
    expect_near(product(d.u, d.v, static_cast<int64_t>(n)), m);
  }
}

TEST(Lapack, FactorsAndSolutionsGiveTheMatrixBack) {
  const int64_t n = 6, rows = 3;
  const std::vector<double> r = random_matrix(n, n, 2), m = random_matrix(rows, n, 3);
  std::vector<double> c = product(r, transpose(r, n), n);  // positive definite
  std::vector<double> s = c;
  ASSERT_TRUE(lapack::cholesky(n, s.data()));
  std::vector<double> lower = s;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j) lower[static_cast<size_t>(i * n + j)] = 0;
  expect_near(product(lower, transpose(lower, n), n), c);
  std::vector<double> ms = m;
  lapack::times_lower(rows, n, s.data(), ms.data());
  expect_near(ms, product(m, lower, n));
  lapack::over_lower(rows, n, s.data(), ms.data());
  expect_near(ms, m);
  std::vector<double> solved = product(m, c, n), overwritten = c;
  ASSERT_TRUE(lapack::over_positive(rows, n, overwritten.data(), solved.data()));
  expect_near(solved, m);
  std::vector<double> negative = c;
  negative[0] = -1;
  EXPECT_FALSE(lapack::cholesky(n, negative.data()));
}

TEST(Lapack, LargestEigenvaluesAndOrthonormalRows) {
  const int64_t n = 6, count = 2;
  const std::vector<double> m = random_matrix(9, n, 4);
  std::vector<double> upper(static_cast<size_t>(n * n));
  lapack::gram(9, n, m.data(), upper.data());
  const lapack::Eigenvalues e = lapack::largest_eigenvalues(n, count, upper.data());
  std::vector<double> consumed = m;
  const lapack::Svd d = lapack::svd(9, n, consumed.data());
  ASSERT_EQ(e.values.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(e.values[1 - i], d.s[i] * d.s[i], 1e-9);
    double along = 0;
    for (size_t j = 0; j < static_cast<size_t>(n); ++j)
      along += e.vectors[(1 - i) * n + j] * d.v[i * n + j];
    EXPECT_NEAR(std::abs(along), 1, 1e-10);
  }
  std::vector<double> rows = random_matrix(3, n, 5);
  lapack::orthonormalize_rows(3, n, rows.data());
  expect_near(product(rows, transpose(rows, n), n), {1, 0, 0, 0, 1, 0, 0, 0, 1});
}

// libtorch looks its sgemm_ up in the whole program: a BLAS that is visible there replaces its own.
TEST(Lapack, ItsLibraryIsVisibleToNobodyElse) {
  std::vector<double> m = random_matrix(3, 3, 6);
  lapack::svd(3, 3, m.data());
  for (const char* name : {"sgemm_", "cblas_sgemm", "dgesdd_", "openblas_set_num_threads"})
    EXPECT_EQ(::dlsym(RTLD_DEFAULT, name), nullptr) << name;
}

}  // namespace
}  // namespace reprise
