#include "backend/torch/torch_backend.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "backend/torch/attention_layout.h"
#include "backend/torch/autograd_ops.h"
#include "base/quant/rows.h"
#include "base/thread_pool.h"

namespace reprise {
namespace {

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  if (name != "cuda") fail("device '{}': expected 'cpu' or 'cuda'", name);
  if (!at::globalContext().hasCUDA())
    fail(
        "device 'cuda': PyTorch {} finds no CUDA device (a wheel with CUDA is needed, and a "
        "driver)",
        REPRISE_TORCH_VERSION);
  return at::Device(at::kCUDA, 0);
}

int normal_dim(const Tensor& x, int dim) {
  const int at = dim < 0 ? x.rank() + dim : dim;
  REPRISE_CHECK(at >= 0 && at < x.rank(), "dimension {} of {}", dim, shape_string(x.shape()));
  return at;
}

// Sums on a GPU take a fixed order, so that a resumed run computes what one that was never stopped
// does. The switch is the process's. Not as warnings only: attention's backward pass would then
// keep the order that is faster.
void fix_order_of_sums() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // what cuBLAS asks for
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

}  // namespace

TorchBackend::TorchBackend(const BackendOptions& options) : device_(parse_device(options.device)) {
  if (device_.is_cuda()) fix_order_of_sums();
  at::set_num_threads(options.threads > 0 ? options.threads : ThreadPool::hardware_threads());
}

TorchBackend::~TorchBackend() = default;

std::string TorchBackend::description() const {
  return fmt::format("torch {}: {}, {} threads, {}", REPRISE_TORCH_VERSION, device_.str(),
                     at::get_num_threads(), bf16_ ? "bf16 products" : "f32");
}

BackendStats TorchBackend::stats() const {
  BackendStats stats;
  stats.weight_bytes = meter_->weights;
  stats.workspace_bytes = meter_->activations;
  stats.workspace_peak = meter_->activations_peak;
  stats.kv_bytes = meter_->kv;
  return stats;
}

const at::Tensor& TorchBackend::at_of(const Tensor& x) {
  REPRISE_CHECK(x, "an empty tensor handle");
  const auto* data = dynamic_cast<const TorchTensor*>(x.data().get());
  REPRISE_CHECK(data != nullptr, "a tensor of another backend");
  REPRISE_CHECK(data->value.defined(), "a weight in few bits, which only linear takes");
  return data->value;
}

TorchWeight& TorchBackend::weight_of(const Tensor& weight) {
  auto* data = dynamic_cast<TorchWeight*>(weight.data().get());
  REPRISE_CHECK(data != nullptr, "not a bound weight");
  return *data;
}

Tensor TorchBackend::wrap(at::Tensor value) const {
  Shape shape(value.sizes().begin(), value.sizes().end());
  const auto bytes = static_cast<int64_t>(value.nbytes());
  return Tensor(std::make_shared<TorchTensor>(std::move(value), meter_, bytes), std::move(shape));
}

Tensor TorchBackend::wrap_view(at::Tensor value) const {
  Shape shape(value.sizes().begin(), value.sizes().end());
  return Tensor(std::make_shared<TorchTensor>(std::move(value), meter_, 0), std::move(shape));
}

at::Tensor TorchBackend::index_tensor(std::span<const int32_t> indices) const {
  at::Tensor index = at::empty({static_cast<int64_t>(indices.size())}, at::kInt);
  if (!indices.empty())
    std::memcpy(index.data_ptr<int32_t>(), indices.data(), indices.size_bytes());
  return index.to(device_);
}

at::Tensor TorchBackend::device_copy(std::span<const float> values, const Shape& shape) const {
  REPRISE_CHECK(static_cast<int64_t>(values.size()) == num_elements(shape), "{} values for {}",
                values.size(), shape_string(shape));
  at::Tensor copy = at::empty(shape, at::kFloat);
  if (!values.empty()) std::memcpy(copy.data_ptr<float>(), values.data(), values.size_bytes());
  return copy.to(device_);
}

std::vector<float> TorchBackend::host_values(const at::Tensor& x) const {
  const c10::AutoGradMode no_graph(false);
  const at::Tensor dense = x.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* begin = dense.const_data_ptr<float>();
  return std::vector<float>(begin, begin + dense.numel());
}

Tensor TorchBackend::bind(const HostTensor& source, WeightUse use) {
  const bool vector = use == WeightUse::Vector;
  std::vector<DType> plain = {DType::F32, DType::F16, DType::BF16, DType::F64};
  if (vector) plain.insert(plain.end(), {DType::I32, DType::I64});
  if (!is_quantized(source.type) && std::ranges::find(plain, source.type) == plain.end())
    fail("torch backend: a {} of type {} isn't supported, expected {}",
         vector ? "vector" : "matrix", dtype_name(source.type), names_with_quantized(plain));
  REPRISE_CHECK(tensor_bytes(source.type, source.shape) ==
                static_cast<int64_t>(source.bytes.size()));
  at::Tensor value = at::empty(source.shape, at::kFloat);
  float* out = value.data_ptr<float>();
  // Work is cut at whole blocks; 64 Ki values are enough to pay for a task.
  const int64_t unit = block_values(source.type);
  at::parallel_for(0, value.numel() / unit, 65536 / unit, [&](int64_t begin, int64_t end) {
    dequantize_row(source.type, source.bytes.data() + begin * block_bytes(source.type),
                   out + begin * unit, (end - begin) * unit);
  });
  if (source.release) source.release();
  const DType type = vector ? DType::F32 : source.type;
  return Tensor(std::make_shared<TorchWeight>(value.to(device_), meter_), source.shape, type);
}

Tensor TorchBackend::from_host(std::span<const float> values, Shape shape) {
  return wrap(device_copy(values, shape));
}

std::vector<float> TorchBackend::to_host(const Tensor& x) {
  const auto* weight = dynamic_cast<const TorchWeight*>(x.data().get());
  if (weight == nullptr || !weight->low_bit) return host_values(at_of(x));
  std::vector<float> values(static_cast<size_t>(x.size()));
  weight->low_bit->dequantize(0, x.size(), values.data());
  return values;
}

Tensor TorchBackend::reshape(const Tensor& x, Shape shape) {
  const auto guard = recording();
  REPRISE_CHECK(num_elements(shape) == x.size(), "{} to {}", shape_string(x.shape()),
                shape_string(shape));
  return wrap_view(at_of(x).reshape(shape));
}

Tensor TorchBackend::slice(const Tensor& x, int dim, int64_t begin, int64_t end) {
  const auto guard = recording();
  dim = normal_dim(x, dim);
  REPRISE_CHECK(0 <= begin && begin <= end && end <= x.dim(dim), "[{}, {}) of dimension {} of {}",
                begin, end, dim, shape_string(x.shape()));
  return wrap_view(at_of(x).narrow(dim, begin, end - begin));
}

Tensor TorchBackend::concat(std::span<const Tensor> parts, int dim) {
  const auto guard = recording();
  REPRISE_CHECK(!parts.empty());
  dim = normal_dim(parts[0], dim);
  std::vector<at::Tensor> values;
  values.reserve(parts.size());
  for (const Tensor& part : parts) {
    REPRISE_CHECK(part.rank() == parts[0].rank());
    for (int i = 0; i < part.rank(); ++i)
      REPRISE_CHECK(i == dim || part.dim(i) == parts[0].dim(i), "{} beside {}",
                    shape_string(part.shape()), shape_string(parts[0].shape()));
    values.push_back(at_of(part));
  }
  return wrap(at::cat(values, dim));
}

Tensor TorchBackend::gather_rows(const Tensor& x, std::span<const int32_t> indices) {
  const auto guard = recording();
  REPRISE_CHECK(x.rank() >= 1);
  for (int32_t i : indices) REPRISE_CHECK(i >= 0 && i < x.dim(0), "row {} of {}", i, x.dim(0));
  return wrap(gather_rows_op(at_of(x), make_row_index(indices, x.dim(0))));
}

Tensor TorchBackend::replace_rows(const Tensor& x, std::span<const int32_t> indices,
                                  const Tensor& rows) {
  const auto guard = recording();
  REPRISE_CHECK(x.rank() >= 1 && rows.rank() == x.rank() &&
                rows.dim(0) == static_cast<int64_t>(indices.size()));
  for (int i = 1; i < x.rank(); ++i)
    REPRISE_CHECK(x.dim(i) == rows.dim(i), "{} into {}", shape_string(rows.shape()),
                  shape_string(x.shape()));
  std::vector<bool> seen(static_cast<size_t>(x.dim(0)));
  for (int32_t i : indices) {
    REPRISE_CHECK(i >= 0 && i < x.dim(0) && !seen[static_cast<size_t>(i)], "row {} of {}", i,
                  x.dim(0));
    seen[static_cast<size_t>(i)] = true;
  }
  return wrap(at_of(x).index_copy(0, index_tensor(indices).to(at::kLong), at_of(rows)));
}

Tensor TorchBackend::patchify(const Tensor& pixels, int patch) {
  const auto guard = recording();
  REPRISE_CHECK(pixels.rank() == 4 && patch > 0);
  const int64_t t = pixels.dim(0), c = pixels.dim(1), p = patch;
  const int64_t high = pixels.dim(2) / p, wide = pixels.dim(3) / p;
  return wrap(at_of(pixels)
                  .narrow(2, 0, high * p)
                  .narrow(3, 0, wide * p)
                  .reshape({t, c, high, p, wide, p})
                  .permute({0, 2, 4, 1, 3, 5})  // [t, high, wide, c, p, p]
                  .reshape({t, high * wide, c * p * p}));
}

}  // namespace reprise

extern "C" reprise::TrainBackend* reprise_create_torch_backend(
    const reprise::BackendOptions* options) {
  return new reprise::TorchBackend(*options);
}
