// The routines of BLAS and LAPACK that decompositions need, by OpenBLAS (Debian: libopenblas0-pthread).
//
// The library is loaded by the first call, with symbols nobody else sees. Linking it would do harm:
// libtorch calls its own sgemm_ through the dynamic linker, so a BLAS of the program takes its place,
// and training ran five times slower that way. Every function throws Error where the library is
// missing. Calls may run in parallel; each runs in its caller's thread.
//
// Matrices are row-major, without gaps between rows unless a leading dimension (ld) is given.
#pragma once

#include <cstdint>
#include <vector>

namespace reprise::lapack {

enum class Op { None, Transpose };

// c [m, n] = alpha a b + beta c, a [m, k] and b [k, n] after their Op.
template <typename T>
struct Operand {
  const T* data;
  int64_t ld;
  Op op = Op::None;
};
void gemm(int64_t m, int64_t n, int64_t k, double alpha, Operand<double> a, Operand<double> b,
          double beta, double* c, int64_t ldc);
void gemm(int64_t m, int64_t n, int64_t k, float alpha, Operand<float> a, Operand<float> b,
          float beta, float* c, int64_t ldc);

// The upper triangle of m^T m [in, in], m [out, in].
void gram(int64_t out, int64_t in, const double* m, double* upper);

// m S and m S^-1 in place: m [rows, n], S [n, n] lower triangular (what lies above isn't read).
void times_lower(int64_t rows, int64_t n, const double* s, double* m);
void over_lower(int64_t rows, int64_t n, const double* s, double* m);

// c = S S^T in place: its lower triangle becomes S, what lies above stays. False where c [n, n] isn't
// positive definite.
[[nodiscard]] bool cholesky(int64_t n, double* c);

// m c^-1 in place of m [rows, n], for a symmetric positive definite c [n, n], which is overwritten.
// False where it isn't.
[[nodiscard]] bool over_positive(int64_t rows, int64_t n, double* c, double* m);

// The `count` largest eigenvalues, ascending, of the symmetric matrix whose upper triangle g [n, n]
// holds (overwritten), and their eigenvectors as rows [count, n]. Throws Error where they aren't found.
struct Eigenvalues {
  std::vector<double> values, vectors;
};
Eigenvalues largest_eigenvalues(int64_t n, int64_t count, double* g);

// Singular value decomposition m = u diag(s) v, n = min(rows, columns) values, descending. m is
// overwritten. Throws Error where it doesn't converge.
struct Svd {
  std::vector<double> u;  // [rows, n]
  std::vector<double> s;  // [n]
  std::vector<double> v;  // [n, columns]
};
Svd svd(int64_t rows, int64_t columns, double* m);

// An orthonormal basis of the rows of m [count, n], count <= n, in its place.
void orthonormalize_rows(int64_t count, int64_t n, double* m);

}  // namespace reprise::lapack
