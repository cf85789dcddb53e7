#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include "backend/torch/autograd_ops.h"
#include "backend/torch/divergence_op.h"
#include "backend/torch/head_loss_op.h"
#include "backend/torch/torch_backend.h"

namespace reprise {
namespace {

constexpr int32_t kNotCounted = -100;

}  // namespace

void TorchBackend::set_trainable(const Tensor& weight, bool trainable) {
  TorchWeight& w = weight_of(weight);
  REPRISE_CHECK(!trainable || !w.low_bit, "a trained weight in few bits");
  if (w.low_bit) return;
  w.value.set_requires_grad(trainable);
  if (!trainable) w.value.mutable_grad() = at::Tensor();
}

Tensor TorchBackend::cross_entropy_sum(const Tensor& logits, std::span<const int32_t> labels) {
  const auto guard = recording();
  REPRISE_CHECK(logits.rank() == 2 && logits.dim(0) == static_cast<int64_t>(labels.size()));
  std::vector<int32_t> rows, counted;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == kNotCounted) continue;
    REPRISE_CHECK(labels[i] >= 0 && labels[i] < logits.dim(1), "label {} of {}", labels[i],
                  logits.dim(1));
    rows.push_back(static_cast<int32_t>(i));
    counted.push_back(labels[i]);
  }
  // Rows that don't count are left out first: a softmax over the vocabulary is the dear part.
  at::Tensor x = at_of(logits);
  if (rows.size() < labels.size()) x = gather_rows_op(x, make_row_index(rows, logits.dim(0)));
  if (rows.empty()) return wrap(x.sum().reshape({1}));
  return wrap(at::cross_entropy_loss(x, index_tensor(counted).to(at::kLong), {}, at::Reduction::Sum)
                  .reshape({1}));
}

Tensor TorchBackend::cross_entropy_rows(const Tensor& logits, std::span<const int32_t> labels) {
  const auto guard = recording();
  REPRISE_CHECK(logits.rank() == 2 && logits.dim(0) == static_cast<int64_t>(labels.size()));
  for (int32_t label : labels)
    REPRISE_CHECK(label == kNotCounted || (label >= 0 && label < logits.dim(1)), "label {} of {}",
                  label, logits.dim(1));
  return wrap(at::cross_entropy_loss(at_of(logits), index_tensor(labels).to(at::kLong), {},
                                     at::Reduction::None, kNotCounted));
}

Tensor TorchBackend::divergence_sum(const Tensor& teacher, const Tensor& student, Divergence kind,
                                    float temperature) {
  const auto guard = recording();
  REPRISE_CHECK(student.rank() == 2 && teacher.shape() == student.shape(), "{} and {}",
                shape_string(teacher.shape()), shape_string(student.shape()));
  REPRISE_CHECK(temperature > 0, "temperature {}", temperature);
  return wrap(divergence_op(at_of(teacher).detach(), at_of(student), kind, temperature));
}

HeadLosses TorchBackend::head_losses(std::span<const HeadExit> exits, const Tensor& head,
                                     const HeadTeacher* teacher, std::span<const int32_t> labels,
                                     bool tokens) {
  const auto guard = recording();
  REPRISE_CHECK(!exits.empty() && exits.back().kd == 0);
  HeadLossInputs in;
  std::vector<at::Tensor> states;
  for (const HeadExit& exit : exits) {
    REPRISE_CHECK(exit.state.shape() == (Shape{std::ssize(labels), head.dim(1)}), "{} for {} by {}",
                  shape_string(exit.state.shape()), labels.size(), shape_string(head.shape()));
    states.push_back(at_of(exit.state));
    in.ce_weights.push_back(exit.ce);
    in.kd_weights.push_back(exit.kd);
  }
  for (const int32_t label : labels)
    REPRISE_CHECK(label >= 0 && label < head.dim(0), "label {} of {}", label, head.dim(0));
  in.states = states.size() == 1 ? states[0] : at::cat(states, 0);
  in.head = at_of(head);
  in.labels = index_tensor(labels).to(at::kLong);
  in.tokens = tokens;
  in.bf16 = bf16_;
  if (teacher) {
    REPRISE_CHECK(teacher->state.dim(0) == std::ssize(labels) &&
                  teacher->head.dim(0) == head.dim(0));
    in.teacher_states = at_of(teacher->state).detach();
    in.teacher_head = at_of(teacher->head).detach();
    in.divergence = teacher->divergence;
    in.temperature = teacher->temperature;
    in.teacher_weight = teacher->weight;
  }
  HeadLossSums sums = head_loss_op(in);
  return {wrap(std::move(sums.loss)), std::move(sums.ce), std::move(sums.kd), sums.divergence,
          std::move(sums.tokens)};
}

bool TorchBackend::has_plain_values(const Tensor& weight) {
  const TorchWeight& w = weight_of(weight);
  return !w.low_bit && !w.adapter.a;
}

Tensor TorchBackend::detach(const Tensor& x) { return wrap_view(at_of(x).detach()); }

std::vector<int32_t> TorchBackend::argmax(const Tensor& x) {
  REPRISE_CHECK(x.rank() == 2);
  const at::Tensor best = at::argmax(at_of(x).detach(), 1).to(at::kCPU, at::kInt).contiguous();
  const int32_t* begin = best.const_data_ptr<int32_t>();
  return {begin, begin + best.numel()};
}

Tensor TorchBackend::log_sigmoid(const Tensor& x) {
  const auto guard = recording();
  return wrap(at::log_sigmoid(at_of(x)));
}

Tensor TorchBackend::weighted_sums(const Tensor& x, std::span<const float> weights) {
  const auto guard = recording();
  const int64_t n = x.size();
  REPRISE_CHECK(n > 0 && static_cast<int64_t>(weights.size()) % n == 0, "{} weights for {} values",
                weights.size(), n);
  const at::Tensor rows = device_copy(weights, {static_cast<int64_t>(weights.size()) / n, n});
  return wrap(at::mv(rows, at_of(x).reshape({n})));
}

void TorchBackend::backward(const Tensor& loss) {
  REPRISE_CHECK(loss.size() == 1);
  const at::Tensor& value = at_of(loss);
  REPRISE_CHECK(recording_, "backward while recording is off");
  if (value.requires_grad()) value.backward();
}

std::vector<float> TorchBackend::gradient(const Tensor& weight) {
  const TorchWeight& w = weight_of(weight);
  if (!w.low_bit && w.value.grad().defined()) return host_values(w.value.grad());
  return std::vector<float>(static_cast<size_t>(weight.size()));
}

void TorchBackend::zero_gradients(std::span<const Tensor> weights) {
  for (const Tensor& weight : weights) weight_of(weight).value.mutable_grad() = at::Tensor();
}

double TorchBackend::clip_gradients(std::span<const Tensor> weights, double max_norm) {
  const c10::AutoGradMode no_graph(false);
  std::vector<at::Tensor> grads;
  for (const Tensor& weight : weights) {
    const at::Tensor& grad = weight_of(weight).value.grad();
    if (grad.defined()) grads.push_back(grad);
  }
  if (grads.empty()) return 0;
  const double norm = at::stack(at::_foreach_norm(grads, 2)).norm().item<double>();
  if (max_norm > 0 && norm > max_norm) at::_foreach_mul_(grads, max_norm / norm);
  return norm;
}

// Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR 2019), algorithm 2. A weight
// no gradient has reached is stepped with zeros.
void TorchBackend::adamw_step(const Tensor& weight, const AdamWOptions& options) {
  const c10::AutoGradMode no_graph(false);
  TorchWeight& w = weight_of(weight);
  REPRISE_CHECK(w.value.requires_grad(), "a step of a weight that isn't trainable");
  if (!w.m.defined()) {
    w.m = at::zeros_like(w.value);
    w.v = at::zeros_like(w.value);
  }
  ++w.step;
  const at::Tensor grad = w.value.grad().defined() ? w.value.grad() : at::zeros_like(w.value);
  const at::Tensor step =
      at::full({}, static_cast<double>(w.step), w.value.options().requires_grad(false));
  at::_fused_adamw_({w.value}, {grad}, {w.m}, {w.v}, {}, {step}, static_cast<double>(options.lr),
                    options.beta1, options.beta2, options.weight_decay, options.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
}

AdamState TorchBackend::adam_state(const Tensor& weight) {
  const TorchWeight& w = weight_of(weight);
  if (!w.m.defined()) return {};
  return {host_values(w.m), host_values(w.v), w.step};
}

void TorchBackend::set_adam_state(const Tensor& weight, const AdamState& state) {
  TorchWeight& w = weight_of(weight);
  w.step = state.step;
  w.m = state.m.empty() ? at::Tensor() : device_copy(state.m, weight.shape());
  w.v = state.v.empty() ? at::Tensor() : device_copy(state.v, weight.shape());
  REPRISE_CHECK(w.m.defined() == w.v.defined() && w.m.defined() == (state.step > 0));
}

void TorchBackend::assign(const Tensor& weight, std::span<const float> values) {
  const c10::AutoGradMode no_graph(false);
  TorchWeight& w = weight_of(weight);
  if (w.low_bit)
    w.set_value(device_copy(values, weight.shape()));
  else
    w.value.copy_(device_copy(values, weight.shape()));
}

}  // namespace reprise
