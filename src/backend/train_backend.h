// What a backend that can train offers beyond Backend. Implemented by the torch plug-in; the
// trainer itself sees no torch header.
#pragma once

#include <functional>

#include "backend/backend.h"
#include "backend/low_bit.h"

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

// How far one distribution over a vocabulary, q (the student's), is from another, p (the
// teacher's); natural logarithms.
enum class Divergence {
  ForwardKl,  // KL(p, q) = sum p (log p - log q)
  ReverseKl,  // KL(q, p)
  Jsd,        // (KL(p, m) + KL(q, m)) / 2, m = (p + q) / 2: Jensen and Shannon's
  Tvd         // sum |p - q| / 2: total variation
};

// One exit's share in a loss of language modelling.
struct HeadExit {
  Tensor state;   // [n, d], normed
  double ce = 0;  // weight of the cross entropy there
  double kd = 0;  // weight of KL(output, exit), the output as a constant; 0 for the output itself
};

// A model to learn from.
struct HeadTeacher {
  Tensor state;  // [n, its d], normed
  Tensor head;   // [vocabulary, its d]
  Divergence divergence = Divergence::ForwardKl;
  float temperature = 1;
  double weight = 0;
};

struct HeadLosses {
  Tensor loss;                               // [1]: the weighted sum of the following ones
  std::vector<double> ce, kd;                // by exit, sums over rows; kd 0 where it has no weight
  double divergence = 0;                     // of the output from the teacher
  std::vector<std::vector<int32_t>> tokens;  // by exit [n]: the likeliest ones, if asked for
};

// How far a weight in few bits is from what it was.
struct QuantizationError {
  double relative_rms = 0;  // root of sum (w - w')^2 / sum w^2
  double largest = 0;       // of |w - w'|
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
  // Sum over rows of the divergence of q = softmax(student / temperature) from p = softmax(teacher
  // / temperature): two of [n, vocabulary] -> scalar [1], in F32 whatever products are in. The
  // teacher is a constant: no gradient flows to it, also where it comes from trained weights.
  virtual Tensor divergence_sum(const Tensor& teacher, const Tensor& student, Divergence kind,
                                float temperature) = 0;
  // Cross entropy at the exits (the last one is the model's output), what they learn from the
  // output and it from a teacher (or null), all through one head [vocabulary, d]: as
  // cross_entropy_sum and divergence_sum of the logits give it, but [n, vocabulary] is never held,
  // some rows are at a time. labels [n], all counted. `head` must be a plain weight: neither in few
  // bits nor with an attached adapter (has_plain_values).
  virtual HeadLosses head_losses(std::span<const HeadExit> exits, const Tensor& head,
                                 const HeadTeacher* teacher, std::span<const int32_t> labels,
                                 bool tokens) = 0;
  virtual bool has_plain_values(const Tensor& weight) = 0;
  // The same values as a constant of the graph.
  virtual Tensor detach(const Tensor& x) = 0;
  // Index of the largest value of each row of x [n, m]; the first of equal ones.
  virtual std::vector<int32_t> argmax(const Tensor& x) = 0;
  // log sigmoid(x) by element, exact at both ends (no overflow, no log of 0).
  virtual Tensor log_sigmoid(const Tensor& x) = 0;
  // Sums of x [n] with constant weights [m, n], row-major -> [m]. Always in F32.
  virtual Tensor weighted_sums(const Tensor& x, std::span<const float> weights) = 0;
  // Adds d loss / d weight to the gradients of all trainable weights that it depends on, if any,
  // and frees the graph.
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

  // ---- Low-rank adapters and base weights in few bits (QLoRA)
  // Every linear with `weight` [out, in] adds scale * B (A dropout(x)) from now on; a [rank, in]
  // and b [out, rank] are bound weights. LoRA, arXiv 2106.09685.
  virtual void attach_adapter(const Tensor& weight, const LowRank& adapter, double dropout) = 0;
  // The weight becomes W + scale * B A in F32, and the adapter goes.
  virtual void merge_adapter(const Tensor& weight) = 0;
  // Dropout in front of the adapters that are a model's own (LinearWeight::adapters); 0 at first.
  virtual void set_adapter_dropout(double p) = 0;
  // Begins a forward call whose dropout is a pure function of these two and the order of
  // operations. Values are dropped only while recording.
  virtual void begin_pass(uint64_t seed, uint64_t pass) = 0;
  // Keeps a frozen matrix in few bits from now on. linear computes its F32 values at each use;
  // to_host gives them too; no other operation takes such a weight.
  virtual QuantizationError quantize_weight(const Tensor& weight, LowBitKind kind) = 0;

  // Gradient checkpointing (arXiv 1604.06174): part(x), of whose graph nothing is kept but x; it is
  // run once more when gradients flow. What `part` refers to must live until then.
  virtual Tensor checkpoint(const Tensor& x, std::function<Tensor(const Tensor&)> part) = 0;
};

}  // namespace reprise
