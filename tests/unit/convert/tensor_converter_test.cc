#include "convert/tensor_converter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace reprise {
namespace {

std::vector<std::byte> converted(TensorConverter& converter, const OutputTensor& tensor,
                                 ConversionError* error = nullptr) {
  std::vector<std::byte> bytes;
  const ConversionError measured = converter.write(tensor, [&](std::span<const std::byte> part) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  });
  if (error) *error = measured;
  return bytes;
}

TensorView waves(int64_t rows, int64_t width) {
  std::vector<float> values(static_cast<size_t>(rows * width));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::sin(static_cast<float>(i)) * (1.0f + static_cast<float>(i % 7));
  return make_view("waves", {rows, width}, std::span<const float>(values));
}

// More than one piece of 64 tasks, with a rest: the bits of the plain writer on any threads.
TEST(TensorConverter, BitsOfThePlainWriterOnAnyThreads) {
  const TensorView source = waves(141, 32 * 1024);
  for (const DType type : {DType::F32, DType::BF16, DType::Q8_0, DType::Q4_0}) {
    std::vector<std::byte> plain;
    write_as(source, type, [&](std::span<const std::byte> part) {
      plain.insert(plain.end(), part.begin(), part.end());
    });
    ConversionError one, many;
    TensorConverter alone(1), crowd(3);
    EXPECT_TRUE(converted(alone, {source, type}, &one) == plain) << dtype_name(type);
    EXPECT_TRUE(converted(crowd, {source, type}, &many) == plain) << dtype_name(type);
    EXPECT_EQ(one.error_squares, many.error_squares);
    EXPECT_EQ(one.largest, many.largest);
    EXPECT_EQ(one.values, num_elements(source.shape));
  }
}

TEST(TensorConverter, MeasuresTheError) {
  // One block whose Q8_0 scale is 1: halves are rounded away from zero.
  std::vector<float> values(32, 0.0f);
  values[0] = 127;
  values[1] = 2.5f;
  values[2] = -0.25f;
  const TensorView source = make_view("t", {1, 32}, std::span<const float>(values));
  TensorConverter converter(1);
  ConversionError error;
  converted(converter, {source, DType::Q8_0}, &error);
  EXPECT_EQ(error.values, 32);
  EXPECT_DOUBLE_EQ(error.error_squares, 0.25 + 0.0625);
  EXPECT_DOUBLE_EQ(error.squares, 127.0 * 127 + 6.25 + 0.0625);
  EXPECT_EQ(error.largest, 0.5);
  EXPECT_DOUBLE_EQ(error.relative_rms(), std::sqrt(error.error_squares / error.squares));
  converted(converter, {source, DType::F32}, &error);
  EXPECT_EQ(error.error_squares, 0);
  EXPECT_EQ(error.relative_rms(), 0);
}

TEST(TensorConverter, ProgressReachesTheEnd) {
  const TensorView source = waves(300, 32 * 1024);  // 9.8M values
  TensorConverter converter(2);
  for (const DType type : {DType::F32, DType::Q8_0}) {
    std::vector<int64_t> seen;
    converter.write(
        {source, type}, [](std::span<const std::byte>) {},
        [&](int64_t bytes) { seen.push_back(bytes); });
    EXPECT_GE(seen.size(), 3u);
    EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
    EXPECT_EQ(seen.back(), static_cast<int64_t>(source.data.size()));
  }
}

TEST(TensorConverter, ErrorsNameTheTensor) {
  std::vector<float> values(64, 1.0f);
  values[40] = 1e6f;
  TensorConverter converter(2);
  const auto ignore = [](std::span<const std::byte>) {};
  const auto message = [&](const OutputTensor& tensor) -> std::string {
    try {
      converter.write(tensor, ignore);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const TensorView source = make_view("big.weight", {2, 32}, std::span<const float>(values));
  EXPECT_THAT(message({source, DType::F16}),
              ::testing::AllOf(::testing::HasSubstr("big.weight"), ::testing::HasSubstr("F16")));
  const TensorView odd = make_view("odd.weight", {4, 16}, std::span<const float>(values));
  EXPECT_THAT(message({odd, DType::Q8_0}), ::testing::HasSubstr("odd.weight"));
}

}  // namespace
}  // namespace reprise
