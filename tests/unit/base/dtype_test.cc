#include "base/dtype.h"

#include <gmock/gmock.h>

#include <set>
#include <tuple>

#include "base/error.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(DType type, const Shape& shape) {
  try {
    tensor_bytes(type, shape);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(DType, TableIsThatOfTheFormats) {
  const std::vector<std::tuple<DType, std::string, int64_t, int64_t>> table = {
      {DType::F32, "F32", 1, 4},    {DType::F16, "F16", 1, 2},     {DType::BF16, "BF16", 1, 2},
      {DType::F64, "F64", 1, 8},    {DType::I8, "I8", 1, 1},       {DType::I16, "I16", 1, 2},
      {DType::I32, "I32", 1, 4},    {DType::I64, "I64", 1, 8},     {DType::U8, "U8", 1, 1},
      {DType::Bool, "BOOL", 1, 1},  {DType::Q8_0, "Q8_0", 32, 34}, {DType::Q4_0, "Q4_0", 32, 18},
      {DType::Q4_1, "Q4_1", 32, 20}};
  ASSERT_LE(table.size(), all_types().size());
  for (const auto& [type, name, values, bytes] : table) {
    EXPECT_EQ(dtype_name(type), name);
    EXPECT_EQ(block_values(type), values) << name;
    EXPECT_EQ(block_bytes(type), bytes) << name;
    EXPECT_EQ(is_quantized(type), values > 1) << name;
    EXPECT_EQ(is_float(type), name == "F32" || name == "F16" || name == "BF16" || name == "F64");
  }
}

TEST(DType, ListsForMessages) {
  const DType two[] = {DType::I8, DType::F16};
  EXPECT_EQ(type_names({}), "");
  EXPECT_EQ(type_names(std::span(two).first(1)), "I8");
  EXPECT_EQ(type_names(two), "I8 or F16");
  EXPECT_THAT(names_with_quantized({DType::F32, DType::F16}),
              testing::StartsWith("F32, F16, Q8_0, Q4_0"));
  std::set<int> ids;
  for (const DType type : all_types()) {
    if (gguf_type_id(type) < 0) continue;
    EXPECT_TRUE(ids.insert(gguf_type_id(type)).second) << dtype_name(type);
  }
  EXPECT_TRUE(ids.contains(8));
  EXPECT_EQ(gguf_type_id(DType::Bool), -1);
}

TEST(DType, SizesOfShapes) {
  EXPECT_EQ(num_elements({}), 1);
  EXPECT_EQ(num_elements({3, 0, 5}), 0);
  EXPECT_EQ(num_elements({2, 3, 64}), 384);
  EXPECT_EQ(tensor_bytes(DType::F32, {}), 4);
  EXPECT_EQ(tensor_bytes(DType::BF16, {2, 3}), 12);
  EXPECT_EQ(tensor_bytes(DType::Q8_0, {3, 64}), 3 * 2 * 34);
  EXPECT_EQ(tensor_bytes(DType::Q4_1, {0, 64}), 0);
  EXPECT_EQ(tensor_bytes(DType::U8, {INT64_MAX}), INT64_MAX);
  EXPECT_EQ(shape_string({}), "[]");
  EXPECT_EQ(shape_string({2, -3, 64}), "[2, -3, 64]");
}

TEST(DType, RefusesImpossibleShapes) {
  const int64_t huge = int64_t{1} << 32;
  EXPECT_THAT(error_of(DType::U8, {2, -1}), AllOf(HasSubstr("[2, -1]"), HasSubstr("negative")));
  EXPECT_THAT(error_of(DType::U8, {huge, huge}), HasSubstr("more elements than 2^63"));
  EXPECT_THAT(error_of(DType::F64, {INT64_MAX}), HasSubstr("more bytes than 2^63"));
  EXPECT_THAT(error_of(DType::Q8_0, {INT64_MAX / 32 * 32}), HasSubstr("more bytes than 2^63"));
  EXPECT_THAT(error_of(DType::Q4_0, {64, 48}),
              AllOf(HasSubstr("[64, 48]"), HasSubstr("multiple of 32"), HasSubstr("Q4_0")));
  EXPECT_THAT(error_of(DType::Q4_0, {}), HasSubstr("multiple of 32"));
}

}  // namespace
}  // namespace reprise
