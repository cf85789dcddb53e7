#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

#include <map>

#include "backend/torch/autograd_ops.h"
#include "backend/torch/linear_op.h"
#include "backend/torch/torch_backend.h"

namespace reprise {
namespace {

// Is b's shape the end of a's?
bool is_suffix(const Shape& b, const Shape& a) {
  return b.size() <= a.size() && std::equal(b.rbegin(), b.rend(), a.rbegin());
}

// Is v [..., 1] for an x [..., d]?
bool is_per_row(const Tensor& v, const Tensor& x) {
  if (v.rank() != x.rank() || v.rank() == 0 || v.dim(-1) != 1) return false;
  return std::equal(v.shape().begin(), v.shape().end() - 1, x.shape().begin());
}

at::Tensor activate(const at::Tensor& x, Unary kind) {
  switch (kind) {
    case Unary::Gelu:
      return at::gelu(x, "none");
    case Unary::GeluTanh:
      return at::gelu(x, "tanh");
    case Unary::QuickGelu:
      return x * at::sigmoid(x * 1.702);
    case Unary::Silu:
      return at::silu(x);
    case Unary::Sigmoid:
      return at::sigmoid(x);
    case Unary::Tanh:
      return at::tanh(x);
    case Unary::Relu:
      return at::relu(x);
  }
  REPRISE_CHECK(false, "activation {}", static_cast<int>(kind));
  return x;
}

// The rows of a call that use one adapter.
struct AdapterRows {
  std::vector<int32_t> rows;
  at::Tensor index;  // [rows], undefined where these are all rows of the call
  at::Tensor x;      // [rows, in]
};

std::map<int32_t, AdapterRows> group_by_adapter(std::span<const int32_t> adapter_of_row) {
  std::map<int32_t, AdapterRows> groups;
  for (size_t row = 0; row < adapter_of_row.size(); ++row) {
    REPRISE_CHECK(adapter_of_row[row] >= -1);
    if (adapter_of_row[row] >= 0)
      groups[adapter_of_row[row]].rows.push_back(static_cast<int32_t>(row));
  }
  return groups;
}

}  // namespace

Tensor TorchBackend::embed(const Tensor& table, std::span<const int32_t> ids) {
  const auto guard = recording();
  REPRISE_CHECK(table.rank() == 2);
  for (int32_t id : ids) REPRISE_CHECK(id >= 0 && id < table.dim(0), "{} of {}", id, table.dim(0));
  return wrap(at::embedding(at_of(table), index_tensor(ids)));
}

std::vector<Tensor> TorchBackend::linear(const Tensor& x,
                                         std::span<const LinearWeight* const> weights,
                                         std::span<const int32_t> adapter_of_row) {
  const auto guard = recording();
  const int64_t in = x.cols();
  REPRISE_CHECK(x.rank() >= 1);
  REPRISE_CHECK(adapter_of_row.empty() || static_cast<int64_t>(adapter_of_row.size()) == x.rows());
  const at::Tensor rows = at_of(x).reshape({-1, in});

  std::map<int32_t, AdapterRows> groups = group_by_adapter(adapter_of_row);
  for (auto& [id, group] : groups) {
    if (group.rows.size() < adapter_of_row.size()) {
      group.index = index_tensor(group.rows);
      group.x = gather_rows_op(rows, make_row_index(group.rows, x.rows()));
    } else {
      group.x = rows;
    }
  }

  std::vector<Tensor> results;
  results.reserve(weights.size());
  for (const LinearWeight* w : weights) {
    REPRISE_CHECK(w->weight.rank() == 2 && w->weight.dim(1) == in, "{} by {}",
                  shape_string(x.shape()), shape_string(w->weight.shape()));
    const int64_t out = w->weight.dim(0);
    REPRISE_CHECK(!w->bias || w->bias.shape() == Shape{out});
    at::Tensor y = weight_linear(rows, w->weight, w->bias ? at_of(w->bias) : at::Tensor());
    for (const auto& [id, group] : groups) {
      if (static_cast<size_t>(id) >= w->adapters.size() || !w->adapters[static_cast<size_t>(id)].a)
        continue;
      const LowRank& adapter = w->adapters[static_cast<size_t>(id)];
      REPRISE_CHECK(adapter.a.rank() == 2 && adapter.b.rank() == 2 && adapter.a.dim(1) == in &&
                        adapter.b.dim(0) == out && adapter.a.dim(0) == adapter.b.dim(1),
                    "adapter {} and {}", shape_string(adapter.a.shape()),
                    shape_string(adapter.b.shape()));
      const at::Tensor delta = low_rank(group.x, adapter, adapter_dropout_);
      y = group.index.defined() ? at::index_add(y, 0, group.index, delta, adapter.scale)
                                : at::add(y, delta, adapter.scale);
    }
    Shape shape = x.shape();
    shape.back() = out;
    results.push_back(wrap(y.reshape(shape)));
  }
  return results;
}

Tensor TorchBackend::norm(const Tensor& x, const NormWeight& w) {
  const auto guard = recording();
  const int64_t d = x.cols();
  REPRISE_CHECK(x.rank() >= 1 && w.eps > 0);
  REPRISE_CHECK(!w.weight || w.weight.size() == d, "{} values by a weight of {}", d,
                shape_string(w.weight.shape()));
  REPRISE_CHECK(!w.bias || (w.kind == NormKind::Layer && w.bias.size() == d));
  REPRISE_CHECK(w.kind == NormKind::Rms || w.offset == 0);
  const at::Tensor weight = w.weight ? at_of(w.weight).reshape({d}) : at::Tensor();
  if (w.kind == NormKind::Rms)
    return wrap(weight.defined()
                    ? rms_norm_op(at_of(x), weight, w.eps, w.offset)
                    : rms_norm_op(at_of(x), at::ones({d}, at_of(x).options()), w.eps, 0));
  const at::Tensor bias = w.bias ? at_of(w.bias).reshape({d}) : at::Tensor();
  return wrap(at::layer_norm(at_of(x), {d}, weight, bias, w.eps));
}

Tensor TorchBackend::add(const Tensor& a, const Tensor& b, float scale) {
  const auto guard = recording();
  REPRISE_CHECK(is_suffix(b.shape(), a.shape()), "{} + {}", shape_string(a.shape()),
                shape_string(b.shape()));
  return wrap(at::add(at_of(a), at_of(b), scale));
}

Tensor TorchBackend::mul(const Tensor& x, const Tensor& v) {
  const auto guard = recording();
  REPRISE_CHECK(is_suffix(v.shape(), x.shape()) || is_per_row(v, x), "{} * {}",
                shape_string(x.shape()), shape_string(v.shape()));
  return wrap(at::mul(at_of(x), at_of(v)));
}

Tensor TorchBackend::scale(const Tensor& x, float factor) {
  const auto guard = recording();
  return wrap(at::mul(at_of(x), factor));
}

Tensor TorchBackend::lerp(const Tensor& a, const Tensor& b, const Tensor& w) {
  const auto guard = recording();
  REPRISE_CHECK(a.shape() == b.shape() && is_per_row(w, a), "{} and {} by {}",
                shape_string(a.shape()), shape_string(b.shape()), shape_string(w.shape()));
  return wrap(at::addcmul(at_of(a), at_of(w), at_of(b) - at_of(a)));
}

Tensor TorchBackend::unary(const Tensor& x, Unary kind) {
  const auto guard = recording();
  return wrap(activate(at_of(x), kind));
}

Tensor TorchBackend::glu(const Tensor& gate, const Tensor& up, Unary kind) {
  const auto guard = recording();
  REPRISE_CHECK(gate.shape() == up.shape(), "{} and {}", shape_string(gate.shape()),
                shape_string(up.shape()));
  return wrap(activate(at_of(gate), kind) * at_of(up));
}

Tensor TorchBackend::rope(const Tensor& x, const Tensor& angles, bool interleaved) {
  const auto guard = recording();
  REPRISE_CHECK(x.rank() == 3 && angles.rank() == 2 && angles.dim(0) == x.dim(0) &&
                    angles.dim(1) % 2 == 0 && angles.dim(1) <= x.dim(2),
                "{} by {}", shape_string(x.shape()), shape_string(angles.shape()));
  return wrap(rope_op(at_of(x), at_of(angles), interleaved));
}

}  // namespace reprise
