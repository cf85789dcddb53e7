#include "backend/torch/linear_op.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string_view>

namespace reprise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                             std::string_view, c10::List<std::optional<at::Scalar>>,
                             std::optional<std::string_view>);

// PyTorch's operator over oneDNN, or nothing in builds without it.
const std::optional<c10::TypedOperatorHandle<Pointwise>>& pointwise() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Pointwise>> {
    const auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!op || !op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
    return op->typed<Pointwise>();
  }();
  return found;
}

// a [n, k], b [m, k], of any strides -> a b^T [n, m].
at::Tensor product(const at::Tensor& a, const at::Tensor& b,
                   const std::optional<at::Tensor>& bias = std::nullopt) {
  static const c10::List<std::optional<at::Scalar>> no_scalars;
  return pointwise()->call(a, b, bias, "none", no_scalars, "");
}

// Rows of x in `type`, dense, with rows of zeros behind them up to a multiple of 64 unless their
// number is a multiple of 32 already.
at::Tensor padded(const at::Tensor& x, at::ScalarType type) {
  const int64_t n = x.size(0);
  if (n % 32 == 0) return x.to(type).contiguous();
  const int64_t rows = (n + 63) / 64 * 64;
  at::Tensor out = at::empty({rows, x.size(1)}, x.options().dtype(type));
  out.narrow(0, 0, n).copy_(x);
  out.narrow(0, n, rows - n).zero_();
  return out;
}

class Linear : public Function<Linear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, bool bf16) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::ScalarType type = bf16 ? at::kBFloat16 : at::kFloat;
    const at::Tensor rows = padded(x, type);
    const at::Tensor w = weight.to(type).contiguous();
    ctx->save_for_backward({rows, w});
    ctx->saved_data["rows"] = x.size(0);
    ctx->saved_data["bias"] = bias.has_value();
    at::Tensor y = product(rows, w, bf16 ? std::nullopt : bias);
    y = y.narrow(0, 0, x.size(0)).to(at::kFloat);
    return bias && bf16 ? y.add_(*bias) : y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& rows = saved[0];
    const at::Tensor& w = saved[1];
    const at::Tensor g = padded(grads[0], rows.scalar_type());
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0))
      dx = product(g, w.t()).narrow(0, 0, ctx->saved_data["rows"].toInt()).to(at::kFloat);
    if (ctx->needs_input_grad(1)) {
      // The order that gives the longer inner loops; both are the same sums.
      const bool turned = w.size(0) > w.size(1);
      dw = turned ? product(rows.t(), g.t()).t() : product(g.t(), rows.t());
      dw = dw.to(at::kFloat).contiguous();
    }
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) db = grads[0].sum(0);
    return {dx, dw, db, {}};
  }
};

// oneDNN's kernels that are worth having need AVX-512, in BF16 the instructions for it.
bool has_kernels(bool bf16) {
#ifdef __x86_64__
  return bf16 ? __builtin_cpu_supports("avx512bf16") : __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

bool worth_it(const at::Tensor& x, const at::Tensor& weight, bool bf16) {
  constexpr int64_t kFewRows = 32, kFewProducts = 1 << 18;
  const int64_t n = x.size(0), in = x.size(1), out = weight.size(0);
  return x.is_cpu() && n >= kFewRows && n * in * out >= kFewProducts && has_kernels(bf16) &&
         pointwise().has_value();
}

}  // namespace

at::Tensor product_op(const at::Tensor& a, const at::Tensor& b, bool bf16) {
  if (!worth_it(a, b, bf16)) {
    if (!bf16) return at::matmul(a, b.t());
    return at::matmul(a.to(at::kBFloat16), b.to(at::kBFloat16).t()).to(at::kFloat);
  }
  const at::ScalarType type = bf16 ? at::kBFloat16 : at::kFloat;
  return product(a.to(type), b.to(type)).to(at::kFloat);
}

at::Tensor linear_op(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     bool bf16) {
  if (worth_it(x, weight, bf16))
    return Linear::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, bf16);
  if (!bf16) return at::linear(x, weight, bias);
  const at::Tensor y = at::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16)).to(at::kFloat);
  return bias.defined() ? y + bias : y;
}

}  // namespace reprise
