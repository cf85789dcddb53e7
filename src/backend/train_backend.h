// What a backend that can train offers beyond Backend. Implemented by the torch plug-in; the
// trainer itself sees no torch header.
#pragma once

#include "backend/backend.h"

namespace reprise {

struct AdamWOptions {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0;  // decoupled: p <- p (1 - lr decay) before the update
};

// Adam's state of one weight, for checkpoints. Empty before the first step.
struct AdamState {
  std::vector<float> m;
  std::vector<float> v;
  int64_t step = 0;
};

class TrainBackend : public Backend {
 public:
  // Marks a bound weight as trainable (F32 master copy) or frozen (the default after bind).
  virtual void set_trainable(const Tensor& weight, bool trainable) = 0;
  // While off (as in evaluation) no graph is recorded.
  virtual void set_recording(bool on) = 0;
  // Matrix products and attention in BF16, everything else and the master weights in F32.
  virtual void set_bf16(bool on) = 0;

  // Sum over counted rows of -log softmax(logits)[label]; a label of -100 isn't counted.
  // logits [n, vocabulary], labels [n] -> scalar [1].
  virtual Tensor cross_entropy_sum(const Tensor& logits, std::span<const int32_t> labels) = 0;
  // The same by row: [n], 0 where the label is -100.
  virtual Tensor cross_entropy_rows(const Tensor& logits, std::span<const int32_t> labels) = 0;
  // log sigmoid(x) by element, exact at both ends (no overflow, no log of 0).
  virtual Tensor log_sigmoid(const Tensor& x) = 0;
  // Sums of x [n] with constant weights [m, n], row-major -> [m]. Always in F32.
  virtual Tensor weighted_sums(const Tensor& x, std::span<const float> weights) = 0;
  // Adds d loss / d weight to the gradients of all trainable weights and frees the graph.
  virtual void backward(const Tensor& loss) = 0;
  virtual std::vector<float> gradient(const Tensor& weight) = 0;  // zeros where none has arrived
  virtual void zero_gradients(std::span<const Tensor> weights) = 0;
  // L2 norm over all gradients before clipping; scales them down to max_norm where it is larger
  // (max_norm <= 0: never).
  virtual double clip_gradients(std::span<const Tensor> weights, double max_norm) = 0;
  virtual void adamw_step(const Tensor& weight, const AdamWOptions& options) = 0;
  virtual AdamState adam_state(const Tensor& weight) = 0;
  virtual void set_adam_state(const Tensor& weight, const AdamState& state) = 0;
  // Overwrites a weight (checkpoint resume, weight averaging).
  virtual void assign(const Tensor& weight, std::span<const float> values) = 0;
};

}  // namespace reprise
