// Norms, element-wise operations and rope.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"

namespace reprise::cpu {
namespace {

UnaryKind kernel_kind(Unary kind) {
  switch (kind) {
    case Unary::Gelu:
      return UnaryKind::Gelu;
    case Unary::GeluTanh:
      return UnaryKind::GeluTanh;
    case Unary::QuickGelu:
      return UnaryKind::QuickGelu;
    case Unary::Silu:
      return UnaryKind::Silu;
    case Unary::Sigmoid:
      return UnaryKind::Sigmoid;
    case Unary::Tanh:
      return UnaryKind::Tanh;
    case Unary::Relu:
      return UnaryKind::Relu;
  }
  REPRISE_CHECK(false, "unknown activation");
  return UnaryKind::Gelu;
}

bool is_suffix(const Shape& part, const Shape& whole) {
  return part.size() <= whole.size() && std::equal(part.rbegin(), part.rend(), whole.rbegin());
}

// One number per row of x.
bool is_per_row(const Tensor& v, const Tensor& x) {
  Shape expected = x.shape();
  if (expected.empty()) return false;
  expected.back() = 1;
  return v.shape() == expected;
}

// Calls body(first, count, first within the period) for pieces of [begin, end) that don't cross a
// multiple of the period.
template <class Body>
void by_period(int64_t begin, int64_t end, int64_t period, const Body& body) {
  while (begin < end) {
    const int64_t at = begin % period;
    const int64_t count = std::min(end - begin, period - at);
    body(begin, count, at);
    begin += count;
  }
}

constexpr int64_t kCostOfActivation = 8;  // in simple steps

}  // namespace

Tensor CpuBackend::norm(const Tensor& x, const NormWeight& w) {
  const int64_t d = x.cols();
  REPRISE_CHECK(w.eps > 0, "eps of a norm isn't set");
  REPRISE_CHECK(!w.weight || w.weight.size() == d, "{} values by a weight of {}", d,
                shape_string(w.weight.shape()));
  REPRISE_CHECK(!w.bias || (w.kind == NormKind::Layer && w.bias.size() == d));
  REPRISE_CHECK(w.kind == NormKind::Rms || w.offset == 0);
  const float* weight = w.weight ? floats(w.weight) : nullptr;
  const float* bias = w.bias ? floats(w.bias) : nullptr;
  const float* from = floats(x);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  run_chunks(x.rows(), d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (w.kind == NormKind::Rms)
        kernels_.vector.rms_norm(from + i * d, weight, w.offset, w.eps, d, to + i * d);
      else
        kernels_.vector.layer_norm(from + i * d, weight, bias, w.eps, d, to + i * d);
    }
  });
  return out;
}

Tensor CpuBackend::add(const Tensor& a, const Tensor& b, float scale) {
  REPRISE_CHECK(is_suffix(b.shape(), a.shape()), "{} + {}", shape_string(a.shape()),
                shape_string(b.shape()));
  const float* left = floats(a);
  const float* right = floats(b);
  Tensor out = new_tensor(a.shape());
  float* to = new_floats(out);
  run_chunks(a.size(), 1, [&](int64_t begin, int64_t end) {
    by_period(begin, end, b.size(), [&](int64_t first, int64_t count, int64_t at) {
      kernels_.vector.add_scaled(left + first, right + at, scale, count, to + first);
    });
  });
  return out;
}

Tensor CpuBackend::mul(const Tensor& x, const Tensor& v) {
  const float* left = floats(x);
  const float* right = floats(v);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  if (is_suffix(v.shape(), x.shape())) {
    run_chunks(x.size(), 1, [&](int64_t begin, int64_t end) {
      by_period(begin, end, v.size(), [&](int64_t first, int64_t count, int64_t at) {
        kernels_.vector.mul(left + first, right + at, count, to + first);
      });
    });
  } else {
    REPRISE_CHECK(is_per_row(v, x), "{} * {}", shape_string(x.shape()), shape_string(v.shape()));
    const int64_t d = x.cols();
    run_chunks(x.rows(), d, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        kernels_.vector.scale(left + i * d, right[i], d, to + i * d);
    });
  }
  return out;
}

Tensor CpuBackend::scale(const Tensor& x, float factor) {
  const float* from = floats(x);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  run_chunks(x.size(), 1, [&](int64_t begin, int64_t end) {
    kernels_.vector.scale(from + begin, factor, end - begin, to + begin);
  });
  return out;
}

Tensor CpuBackend::lerp(const Tensor& a, const Tensor& b, const Tensor& w) {
  REPRISE_CHECK(a.shape() == b.shape() && is_per_row(w, a), "lerp of {}, {} by {}",
                shape_string(a.shape()), shape_string(b.shape()), shape_string(w.shape()));
  const float* left = floats(a);
  const float* right = floats(b);
  const float* weight = floats(w);
  Tensor out = new_tensor(a.shape());
  float* to = new_floats(out);
  const int64_t d = a.cols();
  run_chunks(a.rows(), d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernels_.vector.lerp(left + i * d, right + i * d, weight[i], d, to + i * d);
  });
  return out;
}

Tensor CpuBackend::unary(const Tensor& x, Unary kind) {
  const float* from = floats(x);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  const UnaryKind which = kernel_kind(kind);
  run_chunks(x.size(), kCostOfActivation, [&](int64_t begin, int64_t end) {
    kernels_.vector.unary(which, from + begin, end - begin, to + begin);
  });
  return out;
}

Tensor CpuBackend::glu(const Tensor& gate, const Tensor& up, Unary kind) {
  REPRISE_CHECK(gate.shape() == up.shape(), "glu of {} and {}", shape_string(gate.shape()),
                shape_string(up.shape()));
  const float* left = floats(gate);
  const float* right = floats(up);
  Tensor out = new_tensor(gate.shape());
  float* to = new_floats(out);
  const UnaryKind which = kernel_kind(kind);
  run_chunks(gate.size(), kCostOfActivation, [&](int64_t begin, int64_t end) {
    kernels_.vector.glu(which, left + begin, right + begin, end - begin, to + begin);
  });
  return out;
}

Tensor CpuBackend::rope(const Tensor& x, const Tensor& angles, bool interleaved) {
  REPRISE_CHECK(x.rank() == 3 && angles.rank() == 2 && angles.dim(0) == x.dim(0) &&
                    angles.dim(1) % 2 == 0 && angles.dim(1) <= x.dim(2),
                "rope of {} by {}", shape_string(x.shape()), shape_string(angles.shape()));
  const int64_t heads = x.dim(1), dim = x.dim(2), m = angles.dim(1) / 2;
  const float* from = floats(x);
  const float* angle = floats(angles);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  run_chunks(x.dim(0), heads * dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t h = 0; h < heads; ++h)
        kernels_.vector.rope(from + (i * heads + h) * dim, angle + i * 2 * m, angle + i * 2 * m + m,
                             m, dim, interleaved, to + (i * heads + h) * dim);
  });
  return out;
}

}  // namespace reprise::cpu
