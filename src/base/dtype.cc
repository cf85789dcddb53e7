#include "base/dtype.h"

#include <iterator>

#include "base/error.h"

namespace reprise {
namespace {

struct TypeInfo {
  std::string_view name;
  int64_t values;
  int64_t bytes;
  int gguf;
};

constexpr TypeInfo kTypes[] = {
    {"F32", 1, 4, 0},  {"F16", 1, 2, 1},  {"BF16", 1, 2, 30}, {"F64", 1, 8, 28}, {"I8", 1, 1, 24},
    {"I16", 1, 2, 25}, {"I32", 1, 4, 26}, {"I64", 1, 8, 27},  {"U8", 1, 1, -1},  {"BOOL", 1, 1, -1},
#define REPRISE_QUANT(name, values, bytes, gguf, ...) {#name, values, bytes, gguf},
#include "base/quant/types.def"
};

// The numbers, codes and quants of types.def make up the block. (Codes of 6 bits and halves count as
// their files have them.)
#define REPRISE_QUANT(name, values, bytes, gguf, bits, zero, table, part, code, numbers) \
  static_assert((bits >= 2 && bits <= 6) || bits == 8, #name ": bits");                  \
  static_assert(values == 32 || values == 256, #name ": values");                        \
  static_assert(part == 16 || part == 32, #name ": part");                               \
  static_assert(numbers <= 2 && 2 * (numbers) + (values) * (bits) / 8 <= bytes, #name ": bytes");
#include "base/quant/types.def"

const TypeInfo& info(DType type) { return kTypes[static_cast<size_t>(type)]; }

}  // namespace

int64_t block_values(DType type) { return info(type).values; }
int64_t block_bytes(DType type) { return info(type).bytes; }
bool is_quantized(DType type) { return info(type).values > 1; }
bool is_float(DType type) {
  return type == DType::F32 || type == DType::F16 || type == DType::BF16 || type == DType::F64;
}
std::string_view dtype_name(DType type) { return info(type).name; }
int gguf_type_id(DType type) { return info(type).gguf; }

std::vector<DType> all_types() {
  std::vector<DType> types;
  for (size_t i = 0; i < std::size(kTypes); ++i) types.push_back(static_cast<DType>(i));
  return types;
}

std::vector<DType> quantized_types() {
  std::vector<DType> types = all_types();
  std::erase_if(types, [](DType type) { return !is_quantized(type); });
  return types;
}

std::string type_names(std::span<const DType> types) {
  std::string text;
  for (size_t i = 0; i < types.size(); ++i) {
    if (i > 0) text += i + 1 < types.size() ? ", " : " or ";
    text += dtype_name(types[i]);
  }
  return text;
}

std::string names_with_quantized(std::vector<DType> types) {
  for (const DType type : quantized_types()) types.push_back(type);
  return type_names(types);
}

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
