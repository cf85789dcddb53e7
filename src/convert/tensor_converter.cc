#include "convert/tensor_converter.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"

namespace reprise {
namespace {

constexpr int64_t kTaskValues = 1 << 16;  // of one task; a multiple of every block size
constexpr int64_t kTasks = 64;            // tasks of one piece: 4M values

int64_t packed_bytes(DType type, int64_t values) {
  return values / block_values(type) * block_bytes(type);
}

// Where converting can't change a value, nothing needs to be measured.
bool is_exact(DType from, DType to) {
  return from == to || (to == DType::F32 && from != DType::F64);
}

ConversionError measure(const std::vector<float>& before, const std::vector<float>& after,
                        int64_t n) {
  ConversionError error;
  error.values = n;
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    const double x = before[i], difference = static_cast<double>(after[i]) - x;
    error.squares += x * x;
    error.error_squares += difference * difference;
    error.largest = std::max(error.largest, std::fabs(difference));
  }
  return error;
}

}  // namespace

double ConversionError::relative_rms() const {
  return squares > 0 ? std::sqrt(error_squares / squares) : 0;
}

void ConversionError::add(const ConversionError& other) {
  values += other.values;
  error_squares += other.error_squares;
  squares += other.squares;
  largest = std::max(largest, other.largest);
}

ConversionError TensorConverter::write(const OutputTensor& tensor, const ByteSink& sink,
                                       const std::function<void(int64_t)>& progress) {
  const TensorView& source = tensor.source;
  const int64_t total = num_elements(source.shape);
  ConversionError error;
  const bool measured = !is_exact(source.type, tensor.type);
  if (!measured) error.values = total;
  if (source.type == tensor.type) {
    int64_t done = 0;
    write_as(source, tensor.type, [&](std::span<const std::byte> bytes) {
      sink(bytes);
      done += static_cast<int64_t>(bytes.size());
      if (progress) progress(done);
    });
    return error;
  }
  try {
    tensor_bytes(tensor.type, source.shape);  // Error where the rows don't divide into blocks
    packed_.resize(static_cast<size_t>(packed_bytes(tensor.type, kTasks * kTaskValues)));
    for (int64_t done = 0; done < total;) {
      const int64_t piece = std::min(total - done, kTasks * kTaskValues);
      const int64_t tasks = (piece + kTaskValues - 1) / kTaskValues;
      std::vector<ConversionError> parts(static_cast<size_t>(tasks));
      const auto from = source.data.subspan(static_cast<size_t>(packed_bytes(source.type, done)),
                                            static_cast<size_t>(packed_bytes(source.type, piece)));
      pool_.run(tasks, [&](int64_t task, int) {
        const int64_t first = task * kTaskValues, n = std::min(kTaskValues, piece - first);
        std::vector<float> values(static_cast<size_t>(n)), stored;
        dequantize_row(source.type, from.data() + packed_bytes(source.type, first), values.data(),
                       n);
        std::byte* to = packed_.data() + packed_bytes(tensor.type, first);
        quantize_row(tensor.type, values.data(), to, n);
        if (!measured) return;
        stored.resize(values.size());
        dequantize_row(tensor.type, to, stored.data(), n);
        parts[static_cast<size_t>(task)] = measure(values, stored, n);
      });
      for (const ConversionError& part : parts) error.add(part);
      sink(std::span(packed_).first(static_cast<size_t>(packed_bytes(tensor.type, piece))));
      if (source.file) source.file->release(from);
      done += piece;
      if (progress) progress(packed_bytes(source.type, done));
    }
  } catch (const Error& problem) {
    fail("tensor '{}' ({} {}) as {}: {}", source.name, dtype_name(source.type),
         shape_string(source.shape), dtype_name(tensor.type), problem.what());
  }
  return error;
}

}  // namespace reprise
