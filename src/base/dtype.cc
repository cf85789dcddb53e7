#include "base/dtype.h"

#include <array>

#include "base/error.h"

namespace reprise {
namespace {

struct TypeInfo {
  std::string_view name;
  int64_t values;
  int64_t bytes;
};

constexpr std::array<TypeInfo, 13> kTypes = {{{"F32", 1, 4},
                                              {"F16", 1, 2},
                                              {"BF16", 1, 2},
                                              {"F64", 1, 8},
                                              {"I8", 1, 1},
                                              {"I16", 1, 2},
                                              {"I32", 1, 4},
                                              {"I64", 1, 8},
                                              {"U8", 1, 1},
                                              {"BOOL", 1, 1},
                                              {"Q8_0", 32, 34},
                                              {"Q4_0", 32, 18},
                                              {"Q4_1", 32, 20}}};

const TypeInfo& info(DType type) { return kTypes[static_cast<size_t>(type)]; }

}  // namespace

int64_t block_values(DType type) { return info(type).values; }
int64_t block_bytes(DType type) { return info(type).bytes; }
bool is_quantized(DType type) { return info(type).values > 1; }
bool is_float(DType type) {
  return type == DType::F32 || type == DType::F16 || type == DType::BF16 || type == DType::F64;
}
std::string_view dtype_name(DType type) { return info(type).name; }

int64_t num_elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) {
    if (dim < 0) fail("shape {} has a negative dimension", shape_string(shape));
    if (__builtin_mul_overflow(count, dim, &count))
      fail("shape {} has more elements than 2^63", shape_string(shape));
  }
  return count;
}

int64_t tensor_bytes(DType type, const Shape& shape) {
  const int64_t count = num_elements(shape);
  const int64_t last = shape.empty() ? 1 : shape.back();
  if (last % block_values(type) != 0)
    fail("shape {}: the last dimension is not a multiple of {}, the block size of {}",
         shape_string(shape), block_values(type), dtype_name(type));
  int64_t bytes = 0;
  if (__builtin_mul_overflow(count / block_values(type), block_bytes(type), &bytes))
    fail("shape {} has more bytes than 2^63", shape_string(shape));
  return bytes;
}

std::string shape_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace reprise
