#include "convert/looped/moments.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "convert/looped/lapack.h"

namespace reprise {

void add_moments(ThreadPool& pool, int64_t rows, std::span<const float> y, int64_t n,
                 std::span<const float> x, int64_t m, std::vector<float>& sum) {
  constexpr int64_t kRows = 256;
  sum.resize(static_cast<size_t>(n * m));
  const bool symmetric = y.data() == x.data();
  const int64_t tasks = (n + kRows - 1) / kRows;
  pool.run(tasks, [&](int64_t task, int) {
    const int64_t begin = (tasks - 1 - task) * kRows;  // of a triangle, the longest rows first
    const int64_t end = std::min(begin + kRows, n);
    lapack::gemm(end - begin, symmetric ? end : m, rows, 1.0F,
                 {y.data() + begin, n, lapack::Op::Transpose}, {x.data(), m}, 1.0F,
                 sum.data() + begin * m, m);
  });
}

double damp_moments(std::vector<float>& c, int64_t n) {
  constexpr double kDamping = 0.01;
  const auto size = static_cast<size_t>(n);
  double diagonal = 0;
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < i; ++j) c[j * size + i] = c[i * size + j];
    diagonal += c[i * size + i];
  }
  if (!std::isfinite(diagonal)) fail("the model's activations aren't finite");
  const double damping = diagonal > 0 ? kDamping * diagonal / static_cast<double>(n) : 1;
  for (size_t i = 0; i < size; ++i) c[i * size + i] += static_cast<float>(damping);
  return damping;
}

NormScale::NormScale(Backend& backend, const NormWeight& norm)
    : scale_(backend.to_host(norm.weight)) {
  for (float& x : scale_) x += norm.offset;
  if (norm.bias) shift_ = backend.to_host(norm.bias);
}

void NormScale::undo(std::vector<float>& rows) const {
  for (size_t at = 0; at < rows.size(); ++at) {
    const size_t i = at % scale_.size();
    const float x = shift_.empty() ? rows[at] : rows[at] - shift_[i];
    rows[at] = scale_[i] != 0 ? x / scale_[i] : 0;  // its column of the folded matrix is zero
  }
}

}  // namespace reprise
