#include "backend/cpu/cpu_backend.h"

#include <algorithm>

#include "backend/cpu/kernels/isa.h"

namespace reprise {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

namespace cpu {
namespace {

int thread_count(int wanted) {
  constexpr int kMost = 1024;
  if (wanted < 0 || wanted > kMost)
    fail("threads: expected 1 to {}, or 0 for all, found {}", kMost, wanted);
  return wanted == 0 ? ThreadPool::hardware_threads() : wanted;
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : kernels_(choose_kernels(options.isa)),
      activations_(options.activations),
      threads_(thread_count(options.threads)) {}

std::string CpuBackend::description() const {
  return fmt::format("cpu: {}, {} thread{}, {} activations", kernels_.name, threads_.threads(),
                     threads_.threads() == 1 ? "" : "s",
                     activations_ == Activations::Int8 ? "int8" : "f32");
}

BackendStats CpuBackend::stats() const {
  const MemoryPool::Usage workspace = memory_->usage(Account::Workspace);
  return {.weight_bytes = *weight_bytes_,
          .workspace_bytes = workspace.now,
          .workspace_peak = workspace.peak,
          .kv_bytes = memory_->usage(Account::Kv).now};
}

Tensor CpuBackend::new_tensor(Shape shape) {
  auto data = std::make_shared<CpuData>();
  auto memory = memory_->allocate(tensor_bytes(DType::F32, shape), Account::Workspace);
  data->bytes = memory.get();
  data->owner = std::move(memory);
  return Tensor(std::move(data), std::move(shape));
}

Tensor CpuBackend::view(const Tensor& x, Shape shape, int64_t offset) {
  auto data = std::make_shared<CpuData>(data_of(x));
  if (data->bytes) data->bytes += offset;
  return Tensor(std::move(data), std::move(shape), x.dtype());
}

}  // namespace cpu
}  // namespace reprise
