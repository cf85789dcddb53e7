// y = x W^T + b with a backward pass, on oneDNN where that is the faster way.
//
// ATen computes F32 products on a CPU by MKL, which on AMD machines stops at AVX2 (measured on a
// Zen 5: 95 GFLOP/s a core, oneDNN 215). oneDNN compiles a kernel for every new shape, and training
// batches have a different number of rows each time, so rows are padded to a few sizes. Small
// products, other devices and builds without oneDNN take at::linear.
#pragma once

#include <ATen/core/Tensor.h>

namespace reprise {

// x [n, in], weight [out, in], bias [out] or undefined, all F32 -> [n, out] F32. bf16: products of
// operands rounded to BF16 (the bias is added in F32).
at::Tensor linear_op(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     bool bf16);

// a [n, k], b [m, k], of any strides -> a b^T [n, m] in F32, without a graph.
at::Tensor product_op(const at::Tensor& a, const at::Tensor& b, bool bf16);

}  // namespace reprise
