// Matrices of low rank and shared matrices that come closest to given ones on inputs that were seen:
// an input x [in] counts as often as it occurs, so that the error of M is the mean of |M x|^2,
// which is tr(M C M^T) with C the mean of x x^T. All matrices are row-major.
#pragma once

#include <span>
#include <vector>

#include "convert/looped/low_rank.h"

namespace reprise {

// tr(m c m^T), m [out, in], c [in, in] symmetric.
double weighted_squares(std::span<const double> m, int64_t out, int64_t in,
                        std::span<const float> c);

// The B A of this rank with the smallest tr((m - B A) c (m - B A)^T); c must be positive definite.
// With c = S S^T it is the truncated singular value decomposition U s V^T of m S: B = U s,
// A = V^T S^-1, so that A x has a mean square of 1 in every component. `residual` and `kept` are
// weighted norms. Otherwise as low_rank.
LowRankFactors weighted_low_rank(const std::vector<double>& m, int64_t out, int64_t in,
                                 std::span<const float> c, int64_t rank, uint64_t seed);

// The W [out, in] with W c = product: with a mean of outputs times inputs in `product`, the least
// squares solution. c must be positive definite. Throws Error otherwise.
std::vector<double> solve_moments(std::vector<double> product, int64_t out, int64_t in,
                                  std::vector<double> c);

// For a layer's matrix m whose inputs have become other ones: what it should be for m times the old
// inputs, plus `behind` (empty: zero), to come out. cross: mean of old x new inputs [in, in]; behind:
// of what is added x new inputs [out, in]; c: of the new inputs, with `damping` on its diagonal, by
// which the result is drawn towards m.
std::vector<double> matrix_for_inputs(const std::vector<float>& m, int64_t out, int64_t in,
                                      std::span<const float> c, double damping,
                                      std::span<const float> cross, std::span<const float> behind);

// One of the layers that share a matrix.
struct FitTarget {
  std::vector<float> matrix;  // [out, in]
  std::span<const float> c;   // [in, in]
};

struct SharedFit {
  std::vector<float> shared;             // [out, in]
  std::vector<LowRankFactors> adapters;  // by target; residual and kept are weighted norms
  std::vector<double> norms;             // by target: its own weighted norm
  // What is minimised, the mean over targets of tr(E c E^T) / tr(M c M^T) with E = M - W' - B A:
  // after the start and after every round.
  std::vector<double> objective;
};

// How the matrix W' that layers share and their adapters begin.
enum class FitStart {
  Mean,  // the mean of the layers, and adapters for what it lacks of each
  // Of two layers: odd directions of their difference are one's adapter, even ones the other's; then
  // one round. (The mean's adapters would be the same directions twice.)
  Split,
};

// Then `rounds` of alternating least squares: the W' for these adapters, then the adapters for this
// W'; the objective never rises. rank 0: W' alone.
SharedFit fit_shared(const std::vector<FitTarget>& targets, int64_t out, int64_t in, int64_t rank,
                     FitStart start, int rounds, uint64_t seed);

}  // namespace reprise
