#include "backend/torch/head_loss_op.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "backend/torch/divergence_op.h"
#include "backend/torch/linear_op.h"
#include "base/error.h"

namespace reprise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// What goes through the op beside its differentiable inputs, and what comes out beside its loss.
struct HeadLossJob : torch::CustomClassHolder {
  HeadLossInputs in;
  bool wants_states = false, wants_head = false;
  at::Tensor sums;    // [2 * exits + 1]: ce and kd by exit, the divergence from the teacher
  at::Tensor tokens;  // [exits, n] int64: the likeliest ones
};

// Rows whose logits are there at once: enough for full speed of the matrix products, and 50 MB for
// a vocabulary of 50,000.
constexpr int64_t kRows = 256;

class HeadLoss : public Function<HeadLoss> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& states, const at::Tensor& head,
                            c10::intrusive_ptr<HeadLossJob> job) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const HeadLossInputs& in = job->in;
    const auto exits = static_cast<int64_t>(in.ce_weights.size());
    const int64_t n = in.labels.size(0);
    const auto product_type = [&](const at::Tensor& weight) {
      return in.bf16 ? weight.to(at::kBFloat16) : weight;
    };
    const at::Tensor w = product_type(head);
    const at::Tensor teacher_w =
        in.teacher_head.defined() ? product_type(in.teacher_head) : at::Tensor();
    job->sums = at::zeros({2 * exits + 1}, states.options());
    if (in.tokens) job->tokens = at::empty({exits, n}, in.labels.options());
    at::Tensor d_states, d_head;
    if (job->wants_states) d_states = at::empty_like(states);
    if (job->wants_head) d_head = at::zeros_like(head);
    for (int64_t begin = 0; begin < n; begin += kRows) {
      const int64_t rows = std::min(kRows, n - begin);
      std::vector<at::Tensor> x, logits;
      for (int64_t exit = 0; exit < exits; ++exit) {
        x.push_back(states.narrow(0, exit * n + begin, rows));
        logits.push_back(linear_op(x.back(), w, {}, in.bf16));
      }
      at::Tensor teacher;
      if (teacher_w.defined())
        teacher = linear_op(in.teacher_states.narrow(0, begin, rows), teacher_w, {}, in.bf16);
      const int64_t part = cached_rows(head.size(0));
      for (int64_t at = 0; at < rows; at += part)
        to_gradients(*job, begin, at, std::min(part, rows - at), teacher, logits);
      for (int64_t exit = 0; exit < exits; ++exit) {
        const at::Tensor& g = logits[static_cast<size_t>(exit)];
        if (d_states.defined())
          d_states.narrow(0, exit * n + begin, rows).copy_(product_op(g, w.t(), in.bf16));
        if (!d_head.defined()) continue;
        if (in.bf16)
          d_head.add_(product_op(g.t(), x[static_cast<size_t>(exit)].t(), true));
        else
          d_head.addmm_(g.t(), x[static_cast<size_t>(exit)]);
      }
    }
    ctx->saved_data["states"] = d_states;
    ctx->saved_data["head"] = d_head;
    return weighted(*job);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::AutoDispatchBelowADInplaceOrView below;
    // In place: the graph is gone through once.
    const auto scaled = [&](const char* name) {
      const at::Tensor gradient = ctx->saved_data[name].toTensor();
      return gradient.defined() ? gradient.mul_(grads[0]) : gradient;
    };
    return {scaled("states"), scaled("head"), {}};
  }

 private:
  // Rows [at, at + rows) of the block that begins at `begin`: adds to the sums; logits become the
  // gradient of the weighted loss by themselves.
  static void to_gradients(HeadLossJob& job, int64_t begin, int64_t at, int64_t rows,
                           const at::Tensor& teacher, std::vector<at::Tensor>& logits) {
    const HeadLossInputs& in = job.in;
    const size_t last = logits.size() - 1;
    const at::Tensor labels = in.labels.narrow(0, begin + at, rows).unsqueeze(1);
    const at::Tensor output = logits[last].narrow(0, at, rows);
    const at::Tensor log_q = at::log_softmax(output, 1);
    const at::Tensor q = log_q.exp();
    for (size_t exit = 0; in.tokens && exit < logits.size(); ++exit)
      job.tokens.select(0, static_cast<int64_t>(exit))
          .narrow(0, begin + at, rows)
          .copy_(logits[exit].narrow(0, at, rows).argmax(1));
    const auto add = [&](size_t index, const at::Tensor& value) {
      job.sums.select(0, static_cast<int64_t>(index)).add_(value);
    };
    const auto minus_labels = [&](const at::Tensor& gradient, double weight) {
      gradient.scatter_add_(1, labels, at::full({rows, 1}, -weight, gradient.options()));
    };
    for (size_t exit = 0; exit < last; ++exit) {
      const at::Tensor part = logits[exit].narrow(0, at, rows);
      const at::Tensor log_e = at::log_softmax(part, 1);
      const double ce = in.ce_weights[exit], kd = in.kd_weights[exit];
      add(exit, -log_e.gather(1, labels).sum());
      part.copy_(log_e).exp_().mul_(ce + kd);
      if (kd != 0) {
        add(last + 1 + exit, (q * (log_q - log_e)).sum());
        part.sub_(q, kd);
      }
      minus_labels(part, ce);
    }
    add(last, -log_q.gather(1, labels).sum());
    at::Tensor by_teacher;
    if (teacher.defined()) {
      const at::Tensor logits_p = teacher.narrow(0, at, rows);
      const bool plain = in.temperature == 1;
      by_teacher = at::empty_like(output);
      add(2 * last + 2,
          divergence_of_rows(at::log_softmax(plain ? logits_p : logits_p / in.temperature, 1),
                             plain ? log_q : at::log_softmax(output / in.temperature, 1),
                             in.divergence, by_teacher));
    }
    output.copy_(q).mul_(in.ce_weights[last]);
    if (by_teacher.defined()) output.add_(by_teacher, in.teacher_weight / in.temperature);
    minus_labels(output, in.ce_weights[last]);
  }

  static at::Tensor weighted(const HeadLossJob& job) {
    std::vector<double> weights = job.in.ce_weights;
    weights.insert(weights.end(), job.in.kd_weights.begin(), job.in.kd_weights.end());
    weights.push_back(job.in.teacher_weight);
    at::Tensor loss = at::zeros({1}, job.sums.options());
    for (size_t i = 0; i < weights.size(); ++i)
      if (weights[i] != 0) loss.add_(job.sums.select(0, static_cast<int64_t>(i)), weights[i]);
    return loss;
  }
};

}  // namespace

HeadLossSums head_loss_op(const HeadLossInputs& inputs) {
  auto job = c10::make_intrusive<HeadLossJob>();
  job->in = inputs;
  const bool graph = c10::GradMode::is_enabled();
  job->wants_states = graph && inputs.states.requires_grad();
  job->wants_head = graph && inputs.head.requires_grad();
  HeadLossSums out;
  out.loss = HeadLoss::apply(inputs.states, inputs.head, job);
  const at::Tensor sums = job->sums.to(at::kCPU).contiguous();
  const float* values = sums.const_data_ptr<float>();
  const size_t exits = inputs.ce_weights.size();
  out.ce.assign(values, values + exits);
  out.kd.assign(values + exits, values + 2 * exits);
  out.divergence = values[2 * exits];
  if (!inputs.tokens) return out;
  const at::Tensor tokens = job->tokens.to(at::kCPU, at::kInt).contiguous();
  for (size_t exit = 0; exit < exits; ++exit) {
    const int32_t* row =
        tokens.const_data_ptr<int32_t>() + static_cast<int64_t>(exit) * tokens.size(1);
    out.tokens.emplace_back(row, row + tokens.size(1));
  }
  return out;
}

}  // namespace reprise
