// The cpu backend: operations over the kernel tables. What each operation does is told in
// backend/backend.h; here is how: which loops run on which threads, and where memory comes from.
//
// Work is cut into tasks by shapes alone and every task writes its own part of the result, so that
// results don't depend on the number of threads. Operations may be called from several threads.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_tensor.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/memory/memory_pool.h"
#include "backend/factory.h"
#include "backend/heads.h"
#include "backend/kv/append.h"
#include "base/thread_pool.h"

namespace reprise::cpu {

class CpuBackend final : public Backend, public HeadOperations {
 public:
  explicit CpuBackend(const BackendOptions& options);

  using Backend::linear;
  std::string name() const override { return "cpu"; }
  std::string description() const override;
  BackendStats stats() const override;

  Tensor bind(const HostTensor& source, WeightUse use) override;
  Tensor from_host(std::span<const float> values, Shape shape) override;
  std::vector<float> to_host(const Tensor& x) override;
  std::shared_ptr<KvPage> new_page(const KvSpec& spec) override;
  void copy_entries(const KvPage& from, int64_t first, KvPage& to, int64_t at,
                    int64_t count) override;
  void append_kv(const Tensor& k, const Tensor& v,
                 std::span<const AttentionSegment> segments) override;
  std::pair<Tensor, Tensor> read_kv(const KvRow& row, int64_t begin, int64_t end) override;

  Tensor reshape(const Tensor& x, Shape shape) override;
  Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end) override;
  Tensor concat(std::span<const Tensor> parts, int dim) override;
  Tensor gather_rows(const Tensor& x, std::span<const int32_t> indices) override;
  Tensor replace_rows(const Tensor& x, std::span<const int32_t> indices,
                      const Tensor& rows) override;

  Tensor embed(const Tensor& table, std::span<const int32_t> ids) override;
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
  Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                   std::span<const AttentionSegment> segments) override;
  Tensor full_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                        std::span<const int32_t> kv_of) override;
  std::vector<Tensor> fused_cross_heads(std::span<const HeadCross> parts, float scale,
                                        std::span<const int32_t> source_of_row) override;
  std::pair<Tensor, Tensor> fused_gate_halves(const Tensor& x, float factor,
                                              const LinearWeight& first,
                                              const LinearWeight& second) override;
  Tensor patchify(const Tensor& pixels, int patch) override;

 private:
  // One weight of a `multiply` call.
  struct Product {
    const CpuData* weight;
    DType type;
    int64_t n;
    const float* bias;  // [n] or null
    float* out;         // [m, n]
  };
  // The int8 form of an input, in pool memory.
  struct Quantized {
    std::shared_ptr<std::byte> memory;
    QuantizedRows rows;
  };

  Tensor new_tensor(Shape shape);                             // uninitialized
  Tensor view(const Tensor& x, Shape shape, int64_t offset);  // offset in bytes

  // Runs body(task) for every task on the threads; inline when `work`, about the number of simple
  // steps of all tasks together, isn't worth waking them.
  template <class Body>
  void run_tasks(int64_t tasks, int64_t work, const Body& body) {
    constexpr int64_t kWorthwhile = 1 << 15;
    if (work < kWorthwhile || tasks == 1) {
      for (int64_t task = 0; task < tasks; ++task) body(task);
    } else {
      threads_.run(tasks, [&body](int64_t task, int) { body(task); });
    }
  }
  // Runs body(begin, end) over [0, count) in chunks of some 16K steps, `cost` of them per item.
  template <class Body>
  void run_chunks(int64_t count, int64_t cost, const Body& body) {
    const int64_t chunk = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, cost));
    run_tasks((count + chunk - 1) / chunk, count * cost,
              [&](int64_t task) { body(task * chunk, std::min(count, (task + 1) * chunk)); });
  }

  Tensor bind_vector(const HostTensor& source);
  Tensor bind_quantized(const HostTensor& source);
  // Appends k, v [rows, heads, ...] to the segments' rows; `append` may still undo it.
  void store_kv(KvAppend& append, const Tensor& k, const Tensor& v,
                std::span<const AttentionSegment> segments);
  // k and v of the segments that attend to their own entries, as their rows would store them; the
  // other rows hold anything. None where no row rounds.
  std::pair<Tensor, Tensor> rounded_kv(const Tensor& k, const Tensor& v,
                                       std::span<const AttentionSegment> segments);
  // here: on the calling thread, within a task.
  Quantized quantize(const float* x, int64_t m, int64_t k, bool here);
  void multiply(const float* x, int64_t m, int64_t k, std::span<const Product> products,
                bool int8_activations);
  // The same for a few rows on the calling thread, within a task; no bias. out has row stride n.
  void multiply_here(const float* x, int64_t m, const LinearWeight& weight, float* out);
  void multiply_f32_here(const float* x, int64_t m, const Tensor& weight, float* out);
  // One adapter on its rows of x [*, k], added to those of out [*, n].
  struct AdapterProduct {
    const LowRank* adapter;
    std::span<const int64_t> rows;  // ascending, at least one
    int64_t k, n;
    float* out;
  };
  void add_adapters(const float* x, int64_t m, int64_t k,
                    std::span<const LinearWeight* const> weights, std::span<const Product> products,
                    std::span<const int32_t> adapter_of_row);
  void add_adapter(const float* x, const AdapterProduct& product);
  void add_adapter_here(const float* x, const AdapterProduct& product);

  const Kernels& kernels_;
  Activations activations_;
  std::shared_ptr<MemoryPool> memory_ = MemoryPool::make();
  std::shared_ptr<std::atomic<int64_t>> weight_bytes_ = std::make_shared<std::atomic<int64_t>>(0);
  ThreadPool threads_;
};

}  // namespace reprise::cpu
