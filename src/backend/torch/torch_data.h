// What lies behind Tensor and KvPage on the torch backend.
//
// Activations and weights are F32 at::Tensors on one device. They may be strided views: only the
// logical shape is promised to model code, and `to_host` gives dense rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <memory>
#include <utility>

#include "backend/backend.h"
#include "backend/kv.h"
#include "backend/low_bit.h"
#include "backend/tensor.h"

namespace reprise {

// Bytes held by handles, shared by all of them since handles may outlive the backend. What autograd
// keeps for the backward pass isn't seen here.
struct TorchMeter {
  std::atomic<int64_t> weights{0};
  std::atomic<int64_t> activations{0};
  std::atomic<int64_t> activations_peak{0};
  std::atomic<int64_t> kv{0};

  void add_activation(int64_t bytes) {
    const int64_t now = activations.fetch_add(bytes) + bytes;
    int64_t peak = activations_peak.load();
    while (now > peak && !activations_peak.compare_exchange_weak(peak, now)) {
    }
  }
};

class TorchTensor : public TensorData {
 public:
  // bytes: what this handle holds by itself; 0 for a view of another.
  TorchTensor(at::Tensor value, std::shared_ptr<TorchMeter> meter, int64_t bytes)
      : value(std::move(value)), meter_(std::move(meter)), bytes_(bytes) {
    meter_->add_activation(bytes_);
  }
  ~TorchTensor() override { meter_->activations -= bytes_; }

  at::Tensor value;

 protected:
  std::shared_ptr<TorchMeter> meter_;

 private:
  int64_t bytes_;
};

// A bound weight: an F32 leaf of the graph, with Adam's state once it has been stepped.
class TorchWeight : public TorchTensor {
 public:
  TorchWeight(at::Tensor value, std::shared_ptr<TorchMeter> meter)
      : TorchTensor(std::move(value), std::move(meter), 0), held_(this->value.nbytes()) {
    meter_->weights += held_;
  }
  ~TorchWeight() override { meter_->weights -= held_; }

  // From now on the values are these bits; `value` keeps nothing but the shape.
  void set_low_bit(std::shared_ptr<const LowBitWeight> bits) {
    meter_->weights += bits->bytes() - held_;
    held_ = bits->bytes();
    low_bit = std::move(bits);
    value = at::Tensor();
  }
  // And back to F32.
  void set_value(at::Tensor values) {
    meter_->weights += static_cast<int64_t>(values.nbytes()) - held_;
    held_ = static_cast<int64_t>(values.nbytes());
    value = std::move(values);
    low_bit = nullptr;
  }

  std::shared_ptr<const LowBitWeight> low_bit;  // instead of `value`
  LowRank adapter;                              // attached, where `a` is set
  double dropout = 0;                           // in front of it

  at::Tensor m;  // first and second moments, undefined before the first step
  at::Tensor v;
  int64_t step = 0;

 private:
  int64_t held_;
};

// k [kKvPageTokens, heads, k_dim], v [kKvPageTokens, heads, v_dim], of the row's type.
class TorchPage : public KvPage {
 public:
  TorchPage(const KvSpec& spec, at::Tensor k, at::Tensor v, std::shared_ptr<TorchMeter> meter)
      : KvPage(spec), k(std::move(k)), v(std::move(v)), meter_(std::move(meter)) {
    bytes_ = static_cast<int64_t>(this->k.nbytes() + this->v.nbytes());
    meter_->kv += bytes_;
  }
  ~TorchPage() override { meter_->kv -= bytes_; }

  at::Tensor k;
  at::Tensor v;

 private:
  std::shared_ptr<TorchMeter> meter_;
  int64_t bytes_ = 0;
};

}  // namespace reprise
