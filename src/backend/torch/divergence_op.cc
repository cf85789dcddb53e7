#include "backend/torch/divergence_op.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numbers>

#include "base/error.h"

namespace reprise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Value and gradient want the same exponentials, so the gradient is made in the forward pass.
class DivergenceSum : public Function<DivergenceSum> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& student,
                            const at::Tensor& teacher, int64_t kind, double temperature,
                            bool wants_gradient) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const int64_t n = student.size(0), block = cached_rows(student.size(1));
    at::Tensor sum = at::zeros({1}, student.options());
    at::Tensor gradient;
    if (wants_gradient) gradient = at::empty_like(student);
    for (int64_t begin = 0; begin < n; begin += block) {
      const int64_t rows = std::min(block, n - begin);
      const auto log_probabilities = [&](const at::Tensor& logits) {
        const at::Tensor part = logits.narrow(0, begin, rows);
        return at::log_softmax(temperature == 1 ? part : part / temperature, 1);
      };
      at::Tensor part;
      if (wants_gradient) part = gradient.narrow(0, begin, rows);
      sum += divergence_of_rows(log_probabilities(teacher), log_probabilities(student),
                                static_cast<Divergence>(kind), part);
      if (wants_gradient && temperature != 1) part.mul_(1 / temperature);
    }
    if (wants_gradient) ctx->saved_data["gradient"] = gradient;
    return sum;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::AutoDispatchBelowADInplaceOrView below;
    // In place: the graph is gone through once.
    return {ctx->saved_data["gradient"].toTensor().mul_(grads[0]), {}, {}, {}, {}};
  }
};

}  // namespace

// A row's divergence D has the gradient q_j (r_j - sum_k q_k r_k) by the logits of q, r = dD / dq;
// for KL(p, q) that is q - p.
at::Tensor divergence_of_rows(const at::Tensor& log_p, const at::Tensor& log_q, Divergence kind,
                              at::Tensor gradient) {
  const at::Tensor p = log_p.exp(), q = log_q.exp();
  at::Tensor value, slope;  // slope: dD / dq, up to what is the same for all of a row
  switch (kind) {
    case Divergence::ForwardKl:
      if (gradient.defined()) gradient.copy_(q - p);
      return (p * (log_p - log_q)).sum();
    case Divergence::ReverseKl:
      slope = log_q - log_p;
      value = (q * slope).sum();
      break;
    case Divergence::Jsd: {
      const at::Tensor log_m = at::logaddexp(log_p, log_q) - std::numbers::ln2;
      slope = (log_q - log_m) * 0.5;
      value = (q * slope).sum() + (p * (log_p - log_m)).sum() * 0.5;
      break;
    }
    case Divergence::Tvd: {
      const at::Tensor off = q - p;
      slope = off.sign() * 0.5;
      value = off.abs().sum() * 0.5;
      break;
    }
  }
  if (gradient.defined()) gradient.copy_(q * (slope - (q * slope).sum(1, /*keepdim=*/true)));
  return value;
}

at::Tensor divergence_op(const at::Tensor& teacher, const at::Tensor& student, Divergence kind,
                         double temperature) {
  const bool wants_gradient = c10::GradMode::is_enabled() && student.requires_grad();
  return DivergenceSum::apply(student, teacher, static_cast<int64_t>(kind), temperature,
                              wants_gradient);
}

}  // namespace reprise
