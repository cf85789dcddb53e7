// The torch backend: every operation on F32 at::Tensors of one device, with autograd.
//
// A graph is recorded only while set_recording is on. The handles of one backend may be used by one
// thread at a time. The number of threads is libtorch's own and therefore the whole process's.
//
// Angles of rope, adapter indices and all other host-side arguments are constants; gradients flow
// to every other float input and to every weight marked trainable.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <memory>
#include <string>
#include <vector>

#include "backend/factory.h"
#include "backend/kv/append.h"
#include "backend/torch/torch_data.h"
#include "backend/train_backend.h"

namespace reprise {

struct AttentionLayout;  // attention_layout.h: batched jobs of a functional call, with their masks

class TorchBackend final : public TrainBackend {
 public:
  // Throws Error where the device isn't "cpu" or "cuda", or no CUDA device is there.
  explicit TorchBackend(const BackendOptions& options);
  ~TorchBackend() override;

  // ---- torch_backend.cc: memory and shape
  std::string name() const override { return "torch"; }
  std::string description() const override;
  BackendStats stats() const override;
  Tensor bind(const HostTensor& source, WeightUse use) override;
  Tensor from_host(std::span<const float> values, Shape shape) override;
  std::vector<float> to_host(const Tensor& x) override;
  Tensor reshape(const Tensor& x, Shape shape) override;
  Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end) override;
  Tensor concat(std::span<const Tensor> parts, int dim) override;
  Tensor gather_rows(const Tensor& x, std::span<const int32_t> indices) override;
  Tensor replace_rows(const Tensor& x, std::span<const int32_t> indices,
                      const Tensor& rows) override;
  Tensor patchify(const Tensor& pixels, int patch) override;

  // ---- torch_ops.cc: arithmetic
  Tensor embed(const Tensor& table, std::span<const int32_t> ids) override;
  using Backend::linear;
  std::vector<Tensor> linear(const Tensor& x, std::span<const LinearWeight* const> weights,
                             std::span<const int32_t> adapter_of_row) override;
  Tensor norm(const Tensor& x, const NormWeight& w) override;
  Tensor add(const Tensor& a, const Tensor& b, float scale) override;
  Tensor mul(const Tensor& x, const Tensor& v) override;
  Tensor scale(const Tensor& x, float factor) override;
  Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& w) override;
  Tensor unary(const Tensor& x, Unary kind) override;
  Tensor glu(const Tensor& gate, const Tensor& up, Unary kind) override;
  Tensor rope(const Tensor& x, const Tensor& angles, bool interleaved) override;

  // ---- torch_kv.cc: KV rows and attention to them
  std::shared_ptr<KvPage> new_page(const KvSpec& spec) override;
  void copy_entries(const KvPage& from, int64_t first, KvPage& to, int64_t at,
                    int64_t count) override;
  void append_kv(const Tensor& k, const Tensor& v,
                 std::span<const AttentionSegment> segments) override;
  std::pair<Tensor, Tensor> read_kv(const KvRow& row, int64_t begin, int64_t end) override;

  // ---- torch_attention.cc
  Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                   std::span<const AttentionSegment> segments) override;
  Tensor full_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                        std::span<const int32_t> kv_of) override;

  // ---- torch_train.cc
  void set_trainable(const Tensor& weight, bool trainable) override;
  void set_recording(bool on) override { recording_ = on; }
  // Attention is left in F32 on a CPU, where BF16 would be slower.
  void set_bf16(bool on) override { bf16_ = on; }
  Tensor cross_entropy_sum(const Tensor& logits, std::span<const int32_t> labels) override;
  Tensor cross_entropy_rows(const Tensor& logits, std::span<const int32_t> labels) override;
  Tensor divergence_sum(const Tensor& teacher, const Tensor& student, Divergence kind,
                        float temperature) override;
  HeadLosses head_losses(std::span<const HeadExit> exits, const Tensor& head,
                         const HeadTeacher* teacher, std::span<const int32_t> labels,
                         bool tokens) override;
  bool has_plain_values(const Tensor& weight) override;
  Tensor detach(const Tensor& x) override;
  std::vector<int32_t> argmax(const Tensor& x) override;
  Tensor log_sigmoid(const Tensor& x) override;
  Tensor weighted_sums(const Tensor& x, std::span<const float> weights) override;
  void backward(const Tensor& loss) override;
  std::vector<float> gradient(const Tensor& weight) override;
  void zero_gradients(std::span<const Tensor> weights) override;
  double clip_gradients(std::span<const Tensor> weights, double max_norm) override;
  void adamw_step(const Tensor& weight, const AdamWOptions& options) override;
  AdamState adam_state(const Tensor& weight) override;
  void set_adam_state(const Tensor& weight, const AdamState& state) override;
  void assign(const Tensor& weight, std::span<const float> values) override;

  // ---- torch_adapt.cc: adapters, base weights in few bits, recomputation
  void attach_adapter(const Tensor& weight, const LowRank& adapter, double dropout) override;
  void merge_adapter(const Tensor& weight) override;
  void set_adapter_dropout(double p) override { adapter_dropout_ = p; }
  void begin_pass(uint64_t seed, uint64_t pass) override;
  QuantizationError quantize_weight(const Tensor& weight, LowBitKind kind) override;
  Tensor checkpoint(const Tensor& x, std::function<Tensor(const Tensor&)> part) override;

 private:
  // Autograd's own switch is per thread; every operation sets it from recording_ for its duration.
  c10::AutoGradMode recording() const { return c10::AutoGradMode(recording_); }
  // The at::Tensor behind a handle, which must be one of ours.
  static const at::Tensor& at_of(const Tensor& x);
  static TorchWeight& weight_of(const Tensor& weight);
  Tensor wrap(at::Tensor value) const;       // a result with memory of its own
  Tensor wrap_view(at::Tensor value) const;  // a result that shares its input's memory
  at::Tensor index_tensor(std::span<const int32_t> indices) const;  // int32 on the device
  std::vector<float> host_values(const at::Tensor& x) const;
  at::Tensor device_copy(std::span<const float> values, const Shape& shape) const;

  // Attention over batched heads: q [b, m, heads, k_dim], k [b, n, kv_heads, k_dim], v [b, n,
  // kv_heads, v_dim] -> [b, m, heads, v_dim]. mask: added to the scores, [b or 1, 1, m, n], may be
  // undefined; causal: query i sees keys 0..i; softcap: AttentionSpec's.
  at::Tensor sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& mask, bool causal, double scale, double softcap = 0) const;
  at::Tensor serving_attention(const AttentionSpec& spec, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, std::span<const AttentionSegment> segments);
  at::Tensor functional_attention(const AttentionSpec& spec, const at::Tensor& q,
                                  const at::Tensor& k, const at::Tensor& v,
                                  std::span<const AttentionSegment> segments);
  // Appends k, v [rows, heads, ...] to the segments' rows; `append` may still undo it.
  void store_kv(KvAppend& append, const at::Tensor& k, const at::Tensor& v,
                std::span<const AttentionSegment> segments);
  // Entries [begin, end) of a row as F32.
  std::pair<at::Tensor, at::Tensor> kv_entries(const KvRow& row, int64_t begin, int64_t end) const;

  // x [n, in] by a weight with all that belongs to it: few bits, an attached adapter.
  at::Tensor weight_linear(const at::Tensor& x, const Tensor& weight, const at::Tensor& bias);
  // B (A dropout(x)), not scaled.
  at::Tensor low_rank(const at::Tensor& x, const LowRank& adapter, double dropout);
  at::Tensor drop(const at::Tensor& x, double p);

  at::Device device_;
  bool recording_ = false;
  bool dropping_ = false;  // recording, but for a part that keeps no graph
  double adapter_dropout_ = 0;
  uint64_t dropout_seed_ = 0;
  uint64_t dropout_uses_ = 0;  // since begin_pass
  bool bf16_ = false;
  std::shared_ptr<TorchMeter> meter_ = std::make_shared<TorchMeter>();
  // Layouts of the last functional calls: all layers of a training step share one or two.
  std::vector<std::shared_ptr<const AttentionLayout>> layouts_;
  size_t next_layout_ = 0;
};

}  // namespace reprise

// The plug-in's one entry: makes a backend the caller owns. Throws Error.
extern "C" reprise::TrainBackend* reprise_create_torch_backend(
    const reprise::BackendOptions* options);
