#include "formats/tensor_view.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace reprise {
namespace {

template <class T>
std::vector<int64_t> widen(std::span<const std::byte> data) {
  std::vector<int64_t> out(data.size() / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int64_t>(value);
  }
  return out;
}

template <class T>
TensorView copy_values(std::string name, DType type, Shape shape, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return make_view(std::move(name), type, std::move(shape), {bytes.begin(), bytes.end()});
}

}  // namespace

std::vector<float> to_floats(const TensorView& tensor) {
  std::vector<float> out(static_cast<size_t>(num_elements(tensor.shape)));
  dequantize_row(tensor.type, tensor.data.data(), out.data(), static_cast<int64_t>(out.size()));
  return out;
}

std::vector<int64_t> to_ints(const TensorView& tensor) {
  switch (tensor.type) {
    case DType::I8:
      return widen<int8_t>(tensor.data);
    case DType::I16:
      return widen<int16_t>(tensor.data);
    case DType::I32:
      return widen<int32_t>(tensor.data);
    case DType::I64:
      return widen<int64_t>(tensor.data);
    case DType::U8:
    case DType::Bool:
      return widen<uint8_t>(tensor.data);
    default:
      fail("tensor '{}': expected integers, found {}", tensor.name, dtype_name(tensor.type));
  }
}

TensorView make_view(std::string name, DType type, Shape shape, std::vector<std::byte> bytes) {
  const auto wanted = static_cast<size_t>(tensor_bytes(type, shape));
  if (bytes.size() != wanted)
    fail("tensor '{}': shape {} of {} needs {} bytes, found {}", name, shape_string(shape),
         dtype_name(type), wanted, bytes.size());
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  const std::span<const std::byte> data(*owner);
  return {std::move(name), type, std::move(shape), data, std::move(owner)};
}

TensorView make_view(std::string name, Shape shape, std::span<const float> values) {
  return copy_values(std::move(name), DType::F32, std::move(shape), values);
}

TensorView make_view(std::string name, Shape shape, std::span<const int64_t> values) {
  return copy_values(std::move(name), DType::I64, std::move(shape), values);
}

void write_as(const TensorView& tensor, DType type, const ByteSink& sink) {
  const auto release = [&](std::span<const std::byte> part) {
    if (tensor.file) tensor.file->release(part);
  };
  if (type == tensor.type) {
    constexpr size_t kPiece = size_t{16} << 20;  // bytes of the mapping that are resident at a time
    for (auto rest = tensor.data; !rest.empty();) {
      const auto piece = rest.first(std::min(rest.size(), kPiece));
      sink(piece);
      release(piece);
      rest = rest.subspan(piece.size());
    }
    return;
  }
  constexpr int64_t kChunk = 1 << 18;  // values; a multiple of every block size
  const int64_t total = num_elements(tensor.shape);
  std::vector<float> values(static_cast<size_t>(std::min(total, kChunk)));
  try {
    tensor_bytes(type, tensor.shape);  // Error where the rows don't divide into blocks
    std::vector<std::byte> bytes(values.size() / static_cast<size_t>(block_values(type)) *
                                 static_cast<size_t>(block_bytes(type)));
    for (int64_t done = 0; done < total; done += kChunk) {
      const int64_t n = std::min(kChunk, total - done);
      const auto offset = [&](int64_t value) {
        return static_cast<size_t>(value / block_values(tensor.type) * block_bytes(tensor.type));
      };
      const auto from = tensor.data.subspan(offset(done), offset(n));
      dequantize_row(tensor.type, from.data(), values.data(), n);
      release(from);
      quantize_row(type, values.data(), bytes.data(), n);
      sink({bytes.data(), static_cast<size_t>(n / block_values(type) * block_bytes(type))});
    }
  } catch (const Error& error) {
    fail("tensor '{}' ({} {}) as {}: {}", tensor.name, dtype_name(tensor.type),
         shape_string(tensor.shape), dtype_name(type), error.what());
  }
}

}  // namespace reprise
