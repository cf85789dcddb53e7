// What training needs beyond plain weights: low-rank adapters with dropout, base weights in few
// bits, and recomputation instead of kept activations.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>

#include "backend/torch/linear_op.h"
#include "backend/torch/torch_backend.h"

namespace reprise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor dequantized(const LowBitWeight& weight, at::Device device) {
  at::Tensor values = at::empty({weight.rows, weight.cols}, at::kFloat);
  float* out = values.data_ptr<float>();
  at::parallel_for(0, weight.rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, weight.cols)),
                   [&](int64_t begin, int64_t end) {
                     weight.dequantize(begin * weight.cols, end * weight.cols,
                                       out + begin * weight.cols);
                   });
  return values.to(device);
}

// What a Function keeps that is no tensor.
struct KeptWeight : torch::CustomClassHolder {
  std::shared_ptr<const LowBitWeight> weight;
};

// y = x W^T + b with W from few bits, at each use anew. W gets no gradient, so nothing is kept but
// the bits.
class LowBitLinear : public Function<LowBitLinear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& bias,
                            std::shared_ptr<const LowBitWeight> weight, bool bf16) {
    auto kept = c10::make_intrusive<KeptWeight>();
    kept->weight = std::move(weight);
    ctx->saved_data["weight"] = c10::IValue::make_capsule(kept);
    ctx->saved_data["bf16"] = bf16;
    ctx->saved_data["bias"] = bias.has_value();
    return linear_op(x, dequantized(*kept->weight, x.device()), bias.value_or(at::Tensor()), bf16);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const c10::AutoGradMode no_graph(false);
    const auto kept =
        c10::static_intrusive_pointer_cast<KeptWeight>(ctx->saved_data["weight"].toCapsule());
    at::Tensor dx, db;
    if (ctx->needs_input_grad(0))
      dx = linear_op(grads[0], dequantized(*kept->weight, grads[0].device()).t(), {},
                     ctx->saved_data["bf16"].toBool());
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(1)) db = grads[0].sum(0);
    return {dx, db, {}, {}};
  }
};

// What a recomputed part needs beside its input.
struct Recompute : torch::CustomClassHolder {
  std::function<at::Tensor(const at::Tensor&)> run;  // without and, the second time, with a graph
};

class Checkpoint : public Function<Checkpoint> {
 public:
  // `anchor` requires gradients, so that the part is gone back through even where its input doesn't
  // (its weights may).
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor,
                            c10::intrusive_ptr<Recompute> part) {
    (void)anchor;
    ctx->save_for_backward({x});
    ctx->saved_data["part"] = c10::IValue::make_capsule(part);
    return part->run(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto part =
        c10::static_intrusive_pointer_cast<Recompute>(ctx->saved_data["part"].toCapsule());
    const c10::AutoGradMode graph(true);
    const bool wants = ctx->needs_input_grad(0);
    const at::Tensor x = ctx->get_saved_variables()[0].detach().set_requires_grad(wants);
    const at::Tensor y = part->run(x);
    // Weights get their gradients here; the input's is handed on.
    if (y.requires_grad()) torch::autograd::backward({y}, {grads[0]});
    return {wants ? x.grad() : at::Tensor(), {}, {}};
  }
};

// Gives a variable another value for the time of a scope.
template <class T>
class Restore {
 public:
  Restore(T& variable, T value) : variable_(variable), before_(variable) { variable = value; }
  ~Restore() { variable_ = before_; }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T& variable_;
  T before_;
};

// SplitMix64: a seed of its own for each place dropout is used at.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

void TorchBackend::attach_adapter(const Tensor& weight, const LowRank& adapter, double dropout) {
  REPRISE_CHECK(dropout >= 0 && dropout < 1, "dropout {}", dropout);
  REPRISE_CHECK(adapter.a.rank() == 2 && adapter.b.rank() == 2 && weight.rank() == 2 &&
                    adapter.a.dim(1) == weight.dim(1) && adapter.b.dim(0) == weight.dim(0) &&
                    adapter.a.dim(0) == adapter.b.dim(1),
                "adapter {} and {} of {}", shape_string(adapter.a.shape()),
                shape_string(adapter.b.shape()), shape_string(weight.shape()));
  TorchWeight& w = weight_of(weight);
  w.adapter = adapter;
  w.dropout = dropout;
}

void TorchBackend::merge_adapter(const Tensor& weight) {
  const c10::AutoGradMode no_graph(false);
  TorchWeight& w = weight_of(weight);
  REPRISE_CHECK(w.adapter.a, "no adapter to merge");
  const at::Tensor base = w.low_bit ? dequantized(*w.low_bit, device_) : w.value.detach();
  const at::Tensor delta = at::matmul(at_of(w.adapter.b), at_of(w.adapter.a));
  w.set_value(at::add(base, delta.detach(), w.adapter.scale));
  w.adapter = {};
}

void TorchBackend::begin_pass(uint64_t seed, uint64_t pass) {
  dropout_seed_ = mix(mix(seed) ^ pass);
  dropout_uses_ = 0;
}

at::Tensor TorchBackend::drop(const at::Tensor& x, double p) {
  if (p <= 0 || !(recording_ || dropping_)) return x;
  at::Generator random = at::detail::createCPUGenerator(mix(dropout_seed_ ^ ++dropout_uses_));
  at::Tensor mask = at::empty(x.sizes(), at::kFloat);
  mask.bernoulli_(1 - p, random).div_(1 - p);
  return x * mask.to(x.device());
}

at::Tensor TorchBackend::low_rank(const at::Tensor& x, const LowRank& adapter, double dropout) {
  const at::Tensor narrow = linear_op(drop(x, dropout), at_of(adapter.a), {}, bf16_);  // [n, rank]
  return linear_op(narrow, at_of(adapter.b), {}, bf16_);
}

at::Tensor TorchBackend::weight_linear(const at::Tensor& x, const Tensor& weight,
                                       const at::Tensor& bias) {
  const auto* w = dynamic_cast<const TorchWeight*>(weight.data().get());
  at::Tensor y = w && w->low_bit
                     ? LowBitLinear::apply(x, bias.defined() ? std::optional(bias) : std::nullopt,
                                           w->low_bit, bf16_)
                     : linear_op(x, at_of(weight), bias, bf16_);
  if (w && w->adapter.a) y = at::add(y, low_rank(x, w->adapter, w->dropout), w->adapter.scale);
  return y;
}

QuantizationError TorchBackend::quantize_weight(const Tensor& weight, LowBitKind kind) {
  TorchWeight& w = weight_of(weight);
  REPRISE_CHECK(weight.rank() == 2, "a {}", shape_string(weight.shape()));
  REPRISE_CHECK(!w.value.requires_grad(), "a trained weight in few bits");
  const std::vector<float> values = host_values(w.value);
  auto bits =
      std::make_shared<LowBitWeight>(quantize_low_bit(values, weight.dim(0), weight.dim(1), kind));
  const at::Tensor back = dequantized(*bits, at::Device(at::kCPU));
  const float* found = back.const_data_ptr<float>();
  QuantizationError error;
  double off = 0, size = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double distance = std::abs(double{values[i]} - found[i]);
    error.largest = std::max(error.largest, distance);
    off += distance * distance;
    size += double{values[i]} * values[i];
  }
  error.relative_rms = size > 0 ? std::sqrt(off / size) : 0;
  w.set_low_bit(std::move(bits));
  return error;
}

Tensor TorchBackend::checkpoint(const Tensor& x, std::function<Tensor(const Tensor&)> part) {
  if (!recording_) return part(x);
  const auto guard = recording();
  auto kept = c10::make_intrusive<Recompute>();
  kept->run = [this, part = std::move(part), seed = dropout_seed_, uses = dropout_uses_,
               again = false](const at::Tensor& in) mutable {
    // The first run keeps no graph; the second must drop the same values as the first did, and
    // leave no trace in the pass it comes in the middle of.
    const Restore<bool> recording(recording_, again), dropping(dropping_, true);
    std::optional<Restore<uint64_t>> old_seed, old_uses;
    if (again) {
      old_seed.emplace(dropout_seed_, seed);
      old_uses.emplace(dropout_uses_, uses);
    }
    again = true;
    return at_of(part(wrap(in)));
  };
  const at::Tensor anchor = at::empty({0}, at_of(x).options()).set_requires_grad(true);
  return wrap(Checkpoint::apply(at_of(x), anchor, kept));
}

}  // namespace reprise
