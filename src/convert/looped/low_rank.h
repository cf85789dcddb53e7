// Matrices of low rank that come closest to a given one, by LAPACK.
#pragma once

#include <cstdint>
#include <vector>

namespace reprise {

// The product B A, [out, in].
struct LowRankFactors {
  int64_t rank = 0;
  std::vector<float> a;  // [rank, in]
  std::vector<float> b;  // [out, rank]
  double residual = 0;   // Frobenius norm of the matrix
  double kept = 0;       // of the product; sqrt(residual^2 - kept^2) is what is missing
};

// Above this min(out, in) the decomposition is a randomized one (Halko, Martinsson, Tropp, SIAM
// Review 53, 2011), whose product comes within a fraction of a percent of the best one; up to it, it
// is the best one, computed in float64.
inline constexpr int64_t kExactDecomposition = 2048;

// Truncated singular value decomposition of m [out, in], row-major: B = U S, A = V^T. rank is
// capped at min(out, in). The zero matrix: B = 0 and A Gaussian of standard deviation 1 / sqrt(in)
// by `seed`, so that training can begin. The result doesn't depend on the number of threads; calls
// may run in parallel. Throws Error where LAPACK does not converge or m isn't finite.
LowRankFactors low_rank(std::vector<double> m, int64_t out, int64_t in, int64_t rank,
                        uint64_t seed);
// The same product B A in low_rank's form, the only one in which factors are stored: rows of A that are
// orthonormal, columns of B as long as its singular values. Other factors of it (weighted_low_rank's
// have rows and columns of very different lengths) run as well and train far worse: an optimizer's
// step on a short row's long column undoes what the start brought (docs/claims.md). A product of
// zero stays as it is.
LowRankFactors in_singular_form(LowRankFactors factors, int64_t out, int64_t in);
// A Gaussian as above and B zero: an adapter that changes nothing yet.
LowRankFactors zero_low_rank(int64_t out, int64_t in, int64_t rank, uint64_t seed);

}  // namespace reprise
