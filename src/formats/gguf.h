// GGUF, versions 2 and 3 (little-endian): metadata with typed values, then tensors. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "formats/weights.h"

namespace reprise {

// The alternatives stand in the order of the file's type numbers, so index() is the type number
// (0 U8, 1 I8, 2 U16, 3 I16, 4 U32, 5 I32, 6 F32, 7 BOOL, 8 STRING, 9 ARRAY, 10 U64, 11 I64, 12
// F64).
struct GgufArray {
  template <class T>
  using List = std::vector<T>;
  std::variant<List<uint8_t>, List<int8_t>, List<uint16_t>, List<int16_t>, List<uint32_t>,
               List<int32_t>, List<float>, List<bool>, List<std::string>, List<GgufArray>,
               List<uint64_t>, List<int64_t>, List<double>>
      items;
  bool operator==(const GgufArray&) const = default;
};
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, GgufArray, uint64_t, int64_t, double>;

// "u32", "string", "array of 49152 string", ...
std::string gguf_type_string(const GgufValue& value);

// Key-value pairs in file order. Getters throw Error naming file, key, expected and found type;
// find_* give nullopt when the key is absent (a wrong type is still an Error).
class GgufMetadata {
 public:
  explicit GgufMetadata(std::string where = "metadata") : where_(std::move(where)) {}

  // Appends, or replaces the value of a key that is there.
  void set(const std::string& key, GgufValue value);
  void set(const std::string& key, std::vector<std::string> strings);
  void erase(const std::string& key);  // one that may be there

  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }
  const std::string& where() const { return where_; }
  const GgufValue* find(const std::string& key) const;
  bool has(const std::string& key) const { return find(key) != nullptr; }

  int64_t get_int(const std::string& key) const;  // any integer type that fits
  int64_t get_int(const std::string& key, int64_t low, int64_t high) const;
  uint32_t get_u32(const std::string& key) const;  // any integer type with a value in range
  double get_float(const std::string& key) const;  // F32, F64 or any integer type
  bool get_bool(const std::string& key) const;
  const std::string& get_string(const std::string& key) const;
  std::string get_bytes(const std::string& key) const;  // a string or an array of u8
  const std::vector<std::string>& get_strings(const std::string& key) const;
  std::vector<int64_t> get_ints(const std::string& key) const;  // array of any integer type
  std::vector<float> get_floats(const std::string& key) const;  // array of F32 or F64
  std::vector<bool> get_bools(const std::string& key) const;

  std::optional<int64_t> find_int(const std::string& key) const;
  std::optional<double> find_float(const std::string& key) const;
  std::optional<bool> find_bool(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;

  // Throws Error "<where>: key '<key>': <message>".
  [[noreturn]] void fail_at(const std::string& key, const std::string& message) const;

 private:
  const GgufValue& at(const std::string& key, const char* expected) const;
  [[noreturn]] void wrong_type(const std::string& key, const char* expected,
                               const GgufValue& found) const;

  std::string where_;
  std::vector<std::pair<std::string, GgufValue>> entries_;
  std::unordered_map<std::string, size_t> index_;
};

struct GgufFile {
  uint32_t version = 3;
  uint32_t alignment = 32;                   // bytes; tensor data begins at multiples of it
  std::vector<std::filesystem::path> parts;  // the file, or all files of a model that was split
  GgufMetadata metadata;
  WeightFile weights;  // shapes row-major: the file's order is reversed, a matrix is [out, in]
};

// Maps the file and checks every length, count and offset against it before use, so memory stays in
// proportion to the file's size whatever it claims. Tensor types are those with a gguf_type_id;
// Error naming tensor and type for another, for big-endian files, for tensors that overlap or end
// outside the file, for anything that is there twice.
//
// A model that llama.cpp's gguf-split has cut (NAME-00001-of-0000N.gguf, ...) is opened by its first
// part: metadata is that part's without the keys split.*, tensors are those of all parts, found
// beside it. Error naming file and key for another part, one that is missing or belongs to another
// model, and numbers of tensors that don't add up.
GgufFile open_gguf(const std::filesystem::path& path);

// One tensor to write: the values of `source` (any float type or quantized) stored as `type`.
struct GgufTensor {
  TensorView source;
  DType type;
};

// Writes version 3, atomically, streaming the tensors in the given order (write_as). The alignment
// is the metadata's general.alignment, 32 without it. Throws Error naming path and tensor.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors);

}  // namespace reprise
