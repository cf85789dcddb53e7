// Sums of products of activations, cut into tasks by their sizes alone.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"

namespace reprise {

// sum [n, m] += y^T x for y [rows, n], x [rows, m]; an empty sum is zero. Where y is x, its lower
// triangle (and more) is summed, see mirror_moments.
void add_moments(ThreadPool& pool, int64_t rows, std::span<const float> y, int64_t n,
                 std::span<const float> x, int64_t m, std::vector<float>& sum);

// Completes second moments [n, n] of which the lower triangle is known, and adds 1% of their mean
// diagonal to the diagonal (1 where all are zero). Returns what was added.
double damp_moments(std::vector<float>& c, int64_t n);

// A norm's weight and bias, which a model with folded norms has in the matrices behind.
class NormScale {
 public:
  NormScale(Backend& backend, const NormWeight& norm);
  void undo(std::vector<float>& rows) const;  // [rows, d], normed

 private:
  std::vector<float> scale_, shift_;
};

}  // namespace reprise
