// Operations with a backward pass of their own, where ATen's composed ones pass over memory several
// times more than needed on a CPU. On other devices they are composed of ATen's operations.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace reprise {

// Which rows a gather reads, and by whom each row is read (for its gradient), in host memory.
struct RowIndex {
  at::Tensor source;  // [n] int32: row of x, or -1 for a row of zeros
  at::Tensor
      offsets;  // [rows of x + 1] int32: readers of row r are readers[offsets[r], ...[r + 1])
  at::Tensor readers;  // [n without -1] int32
};
RowIndex make_row_index(std::span<const int32_t> source, int64_t rows);

// x [rows, ...] -> [n, ...].
at::Tensor gather_rows_op(const at::Tensor& x, const RowIndex& index);

// x * (mean(x^2) + eps)^-1/2 * (weight + offset) over the last dimension; x [..., d], weight [d].
at::Tensor rms_norm_op(const at::Tensor& x, const at::Tensor& weight, double eps, double offset);

// See Backend::rope. x [rows, heads, dim], angles [rows, 2m]; no gradient for the angles.
at::Tensor rope_op(const at::Tensor& x, const at::Tensor& angles, bool interleaved);

}  // namespace reprise
