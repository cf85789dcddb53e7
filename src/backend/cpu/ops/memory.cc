// Weights and host memory.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "base/quant/rows.h"

namespace reprise::cpu {
namespace {

bool converts(DType type) { return is_float(type) || type == DType::I32 || type == DType::I64; }

}  // namespace

Tensor CpuBackend::bind(const HostTensor& source, WeightUse use) {
  REPRISE_CHECK(
      static_cast<int64_t>(source.bytes.size()) == tensor_bytes(source.type, source.shape),
      "{} bytes for {} {}", source.bytes.size(), dtype_name(source.type),
      shape_string(source.shape));
  if (use == WeightUse::Vector) return bind_vector(source);
  if (is_quantized(source.type)) return bind_quantized(source);
  if (source.type != DType::F32 && source.type != DType::F16 && source.type != DType::BF16)
    fail("cpu backend: a matrix of type {} isn't supported, expected {}", dtype_name(source.type),
         names_with_quantized({DType::F32, DType::F16, DType::BF16}));

  auto data = std::make_shared<CpuData>();
  const auto bytes = static_cast<int64_t>(source.bytes.size());
  if (source.owner) {  // stays where it is
    data->owner = source.owner;
    data->bytes = const_cast<std::byte*>(source.bytes.data());
  } else {
    const std::shared_ptr<std::byte[]> copy(new std::byte[source.bytes.size()]);
    std::copy(source.bytes.begin(), source.bytes.end(), copy.get());
    data->bytes = copy.get();
    data->owner = copy;
    if (source.release) source.release();
  }
  data->count = std::make_shared<WeightCount>(weight_bytes_, bytes);
  return Tensor(std::move(data), source.shape, source.type);
}

Tensor CpuBackend::bind_vector(const HostTensor& source) {
  if (!converts(source.type))
    fail(
        "cpu backend: a vector of type {} isn't supported, expected F32, F16, BF16, F64, I32 or "
        "I64",
        dtype_name(source.type));
  const int64_t count = num_elements(source.shape);
  const auto bytes = count * static_cast<int64_t>(sizeof(float));
  auto data = std::make_shared<CpuData>();
  const std::shared_ptr<float[]> values(new float[static_cast<size_t>(count)]);
  dequantize_row(source.type, source.bytes.data(), values.get(), count);
  data->bytes = reinterpret_cast<std::byte*>(values.get());
  data->owner = values;
  data->count = std::make_shared<WeightCount>(weight_bytes_, bytes);
  if (source.release) source.release();
  return Tensor(std::move(data), source.shape);
}

Tensor CpuBackend::bind_quantized(const HostTensor& source) {
  if (source.shape.size() != 2)
    fail("cpu backend: a quantized matrix must have 2 dimensions, found {} {}",
         dtype_name(source.type), shape_string(source.shape));
  auto packed =
      std::make_shared<PackedWeights>(pack(source.type, source.shape[0], source.shape[1],
                                           source.bytes.data(), kernels_.matmul.panel, &threads_));
  if (source.release) source.release();
  auto data = std::make_shared<CpuData>();
  data->count = std::make_shared<WeightCount>(weight_bytes_, packed->bytes());
  data->packed = std::move(packed);
  return Tensor(std::move(data), source.shape, source.type);
}

Tensor CpuBackend::from_host(std::span<const float> values, Shape shape) {
  REPRISE_CHECK(num_elements(shape) == static_cast<int64_t>(values.size()), "{} values for {}",
                values.size(), shape_string(shape));
  Tensor x = new_tensor(std::move(shape));
  std::copy(values.begin(), values.end(), new_floats(x));
  return x;
}

std::vector<float> CpuBackend::to_host(const Tensor& x) {
  const CpuData& data = data_of(x);
  std::vector<float> values(static_cast<size_t>(x.size()));
  if (data.packed) {
    for (int64_t row = 0; row < x.rows(); ++row)
      unpack_row(data.packed->matrix(), row, values.data() + row * x.cols());
  } else {
    dequantize_row(x.dtype(), data.bytes, values.data(), x.size());
  }
  return values;
}

Tensor CpuBackend::embed(const Tensor& table, std::span<const int32_t> ids) {
  REPRISE_CHECK(table.rank() == 2);
  const CpuData& data = data_of(table);
  const int64_t d = table.cols();
  const int64_t row_bytes = data.packed ? 0 : tensor_bytes(table.dtype(), {d});
  Tensor out = new_tensor({static_cast<int64_t>(ids.size()), d});
  float* to = new_floats(out);
  run_chunks(static_cast<int64_t>(ids.size()), d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = ids[static_cast<size_t>(i)];
      REPRISE_CHECK(id >= 0 && id < table.dim(0), "id {} of {} rows", id, table.dim(0));
      if (data.packed)
        unpack_row(data.packed->matrix(), id, to + i * d);
      else
        dequantize_row(table.dtype(), data.bytes + id * row_bytes, to + i * d, d);
    }
  });
  return out;
}

}  // namespace reprise::cpu
