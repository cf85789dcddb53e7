#include "backend/torch/autograd_ops.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace reprise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Rows per task, for about 16 Ki values: enough to pay for waking a thread.
int64_t grain(int64_t row_size) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_size));
}

int64_t row_size(const at::Tensor& x) { return x.size(0) == 0 ? 0 : x.numel() / x.size(0); }

// ---- gather

void copy_rows(const float* x, const int32_t* source, int64_t n, int64_t d, float* out) {
  at::parallel_for(0, n, grain(d), [=](int64_t begin, int64_t end) {
    const size_t bytes = static_cast<size_t>(d) * sizeof(float);
    for (int64_t i = begin; i < end; ++i) {
      if (source[i] >= 0)
        std::memcpy(out + i * d, x + source[i] * d, bytes);
      else
        std::memset(out + i * d, 0, bytes);
    }
  });
}

// Sums the gradients of a row's readers in the order of the readers, whatever the threads.
void add_reader_rows(const float* grad, const int32_t* offsets, const int32_t* readers,
                     int64_t rows, int64_t d, float* out) {
  at::parallel_for(0, rows, grain(d), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* sum = out + r * d;
      const int32_t first = offsets[r];
      const int32_t last = offsets[r + 1];
      if (first == last) {
        std::memset(sum, 0, static_cast<size_t>(d) * sizeof(float));
        continue;
      }
      std::memcpy(sum, grad + readers[first] * d, static_cast<size_t>(d) * sizeof(float));
      for (int32_t reader = first + 1; reader < last; ++reader) {
        const float* more = grad + readers[reader] * d;
        for (int64_t j = 0; j < d; ++j) sum[j] += more[j];
      }
    }
  });
}

class GatherRows : public Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& source,
                            const at::Tensor& offsets, const at::Tensor& readers) {
    ctx->save_for_backward({offsets, readers});
    const at::Tensor dense = x.contiguous();
    std::vector<int64_t> shape = x.sizes().vec();
    shape[0] = source.size(0);
    at::Tensor out = at::empty(shape, x.options());
    copy_rows(dense.const_data_ptr<float>(), source.const_data_ptr<int32_t>(), shape[0],
              row_size(x), out.data_ptr<float>());
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dense = grads[0].contiguous();
    std::vector<int64_t> shape = dense.sizes().vec();
    shape[0] = saved[0].size(0) - 1;
    at::Tensor out = at::empty(shape, dense.options());
    add_reader_rows(dense.const_data_ptr<float>(), saved[0].const_data_ptr<int32_t>(),
                    saved[1].const_data_ptr<int32_t>(), shape[0], row_size(out),
                    out.data_ptr<float>());
    return {out, {}, {}, {}};
  }
};

// ---- RMS norm

// Sums in a fixed order: sixteen partial sums that the compiler keeps in vector registers.
float dot(const float* a, const float* b, int64_t d) {
  float part[16] = {};
  int64_t i = 0;
  for (; i + 16 <= d; i += 16)
    for (int j = 0; j < 16; ++j) part[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (float p : part) sum += p;
  for (; i < d; ++i) sum += a[i] * b[i];
  return sum;
}

class RmsNorm : public Function<RmsNorm> {
 public:
  // x [n, d] dense, weight [d] dense.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps, double offset) {
    const int64_t n = x.size(0), d = x.size(1);
    at::Tensor out = at::empty_like(x);
    at::Tensor inverse = at::empty({n}, x.options());
    const float* xs = x.const_data_ptr<float>();
    const float* ws = weight.const_data_ptr<float>();
    float* ys = out.data_ptr<float>();
    float* rs = inverse.data_ptr<float>();
    const float shift = static_cast<float>(offset);
    at::parallel_for(0, n, grain(d), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* row = xs + i * d;
        const float r =
            1.0f / std::sqrt(dot(row, row, d) / static_cast<float>(d) + static_cast<float>(eps));
        rs[i] = r;
        for (int64_t j = 0; j < d; ++j) ys[i * d + j] = row[j] * r * (ws[j] + shift);
      }
    });
    ctx->save_for_backward({x, weight, inverse});
    ctx->saved_data["offset"] = offset;
    return out;
  }

  // With g = grad * (w + offset), r the inverse root: dx = r g - x r^3 mean(g x), dw = sum grad x
  // r.
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    const int64_t n = grad.size(0), d = grad.size(1);
    const float* gs = grad.const_data_ptr<float>();
    const float* xs = saved[0].const_data_ptr<float>();
    const float* rs = saved[2].const_data_ptr<float>();
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor scale = saved[1] + ctx->saved_data["offset"].toDouble();
      const float* ws = scale.const_data_ptr<float>();
      dx = at::empty_like(grad);
      float* out = dx.data_ptr<float>();
      at::parallel_for(0, n, grain(d), [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const float* x = xs + i * d;
          float* row = out + i * d;
          for (int64_t j = 0; j < d; ++j) row[j] = gs[i * d + j] * ws[j];
          const float r = rs[i];
          const float along = r * r * r * dot(row, x, d) / static_cast<float>(d);
          for (int64_t j = 0; j < d; ++j) row[j] = r * row[j] - along * x[j];
        }
      });
    }
    at::Tensor dw;
    if (ctx->needs_input_grad(1)) {
      // Partial sums over a fixed number of rows, so that the order never depends on the threads.
      constexpr int64_t kChunk = 256;
      const int64_t chunks = (n + kChunk - 1) / kChunk;
      const at::Tensor partial = at::zeros({chunks, d}, grad.options());
      float* sums = partial.data_ptr<float>();
      at::parallel_for(0, chunks, 1, [=](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
          for (int64_t i = c * kChunk; i < std::min(n, (c + 1) * kChunk); ++i)
            for (int64_t j = 0; j < d; ++j)
              sums[c * d + j] += gs[i * d + j] * (xs[i * d + j] * rs[i]);
      });
      dw = partial.sum(0);
    }
    return {dx, dw, {}, {}};
  }
};

// ---- rope

// direction 1 rotates by the angles, -1 back.
void rotate_head(const float* x, const float* cosines, const float* sines, int64_t m, int64_t dim,
                 bool interleaved, float direction, float* out) {
  if (interleaved) {
    for (int64_t i = 0; i < m; ++i) {
      const float s = direction * sines[i];
      out[2 * i] = x[2 * i] * cosines[i] - x[2 * i + 1] * s;
      out[2 * i + 1] = x[2 * i + 1] * cosines[i] + x[2 * i] * s;
    }
  } else {
    for (int64_t i = 0; i < m; ++i) {
      const float s = direction * sines[i];
      out[i] = x[i] * cosines[i] - x[i + m] * s;
      out[i + m] = x[i + m] * cosines[i] + x[i] * s;
    }
  }
  for (int64_t i = 2 * m; i < dim; ++i) out[i] = x[i];
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& angles, bool interleaved,
                  float direction) {
  const int64_t heads = x.size(1), dim = x.size(2), m = angles.size(1) / 2;
  at::Tensor out = at::empty_like(x);
  const float* xs = x.const_data_ptr<float>();
  const float* as = angles.const_data_ptr<float>();
  float* ys = out.data_ptr<float>();
  at::parallel_for(0, x.size(0), grain(heads * dim), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t h = row * heads; h < (row + 1) * heads; ++h)
        rotate_head(xs + h * dim, as + row * 2 * m, as + row * 2 * m + m, m, dim, interleaved,
                    direction, ys + h * dim);
  });
  return out;
}

class Rope : public Function<Rope> {
 public:
  // x and angles dense.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& angles,
                            bool interleaved) {
    ctx->save_for_backward({angles});
    ctx->saved_data["interleaved"] = interleaved;
    return rotate(x, angles, interleaved, 1.0f);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor angles = ctx->get_saved_variables()[0];
    return {rotate(grads[0].contiguous(), angles, ctx->saved_data["interleaved"].toBool(), -1.0f),
            {},
            {}};
  }
};

at::Tensor composed_rope(const at::Tensor& x, const at::Tensor& angles, bool interleaved) {
  const int64_t rows = x.size(0), heads = x.size(1), dim = x.size(2), m = angles.size(1) / 2;
  const at::Tensor cosines = angles.narrow(1, 0, m).unsqueeze(1);  // [rows, 1, m]
  const at::Tensor sines = angles.narrow(1, m, m).unsqueeze(1);
  const at::Tensor turned = x.narrow(2, 0, 2 * m);
  at::Tensor first, second;
  if (interleaved) {
    const at::Tensor pairs = turned.reshape({rows, heads, m, 2});
    first = pairs.select(3, 0);
    second = pairs.select(3, 1);
  } else {
    first = turned.narrow(2, 0, m);
    second = turned.narrow(2, m, m);
  }
  const at::Tensor a = first * cosines - second * sines;
  const at::Tensor b = second * cosines + first * sines;
  const at::Tensor y =
      interleaved ? at::stack({a, b}, 3).reshape({rows, heads, 2 * m}) : at::cat({a, b}, 2);
  return 2 * m == dim ? y : at::cat({y, x.narrow(2, 2 * m, dim - 2 * m)}, 2);
}

}  // namespace

RowIndex make_row_index(std::span<const int32_t> source, int64_t rows) {
  const auto n = static_cast<int64_t>(source.size());
  int64_t kept = 0;
  RowIndex index;
  index.source = at::empty({n}, at::kInt);
  index.offsets = at::zeros({rows + 1}, at::kInt);
  std::copy(source.begin(), source.end(), index.source.data_ptr<int32_t>());
  int32_t* offsets = index.offsets.data_ptr<int32_t>();
  for (int32_t row : source) {
    REPRISE_CHECK(row >= -1 && row < rows, "row {} of {}", row, rows);
    if (row < 0) continue;
    ++offsets[row + 1];
    ++kept;
  }
  for (int64_t r = 0; r < rows; ++r) offsets[r + 1] += offsets[r];
  index.readers = at::empty({kept}, at::kInt);
  int32_t* readers = index.readers.data_ptr<int32_t>();
  std::vector<int32_t> next(offsets, offsets + rows);
  for (int64_t i = 0; i < n; ++i)
    if (source[static_cast<size_t>(i)] >= 0)
      readers[next[static_cast<size_t>(source[static_cast<size_t>(i)])]++] =
          static_cast<int32_t>(i);
  return index;
}

at::Tensor gather_rows_op(const at::Tensor& x, const RowIndex& index) {
  if (x.is_cpu()) return GatherRows::apply(x, index.source, index.offsets, index.readers);
  std::vector<int64_t> shape = x.sizes().vec();
  const at::Tensor source = index.source.to(x.device(), at::kLong);
  if (index.readers.size(0) == index.source.size(0)) return x.index_select(0, source);
  shape[0] = 1;  // a row of zeros behind the others, for -1
  const at::Tensor padded = at::cat({x, at::zeros(shape, x.options())}, 0);
  return padded.index_select(0, source.remainder(x.size(0) + 1));
}

at::Tensor rms_norm_op(const at::Tensor& x, const at::Tensor& weight, double eps, double offset) {
  if (x.is_cpu())
    return RmsNorm::apply(x.reshape({-1, x.size(-1)}).contiguous(), weight.contiguous(), eps,
                          offset)
        .reshape(x.sizes());
  const at::Tensor inverse = at::rsqrt(at::mean(x * x, {-1}, /*keepdim=*/true) + eps);
  return x * inverse * (offset == 0 ? weight : weight + offset);
}

at::Tensor rope_op(const at::Tensor& x, const at::Tensor& angles, bool interleaved) {
  if (x.is_cpu()) return Rope::apply(x.contiguous(), angles.contiguous(), interleaved);
  return composed_rope(x, angles, interleaved);
}

}  // namespace reprise
