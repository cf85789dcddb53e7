#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/half.h"
#include "base/quant/rows.h"
#include "base/quant/type.h"
#include "base/rng.h"
#include "formats/safetensors.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;

// quantization.safetensors: "x" and what the Python package gguf makes of it.
class Quantize : public ::testing::TestWithParam<DType> {
 protected:
  const WeightFile file_ = open_safetensors(data_path("quantization.safetensors")).weights;
};

TEST_P(Quantize, AgreesWithGgufPackageBitForBit) {
  const DType type = GetParam();
  const std::string name(dtype_name(type));
  const std::vector<float> x = to_floats(file_.get("x"));
  const TensorView& expected = file_.get(name);
  std::vector<std::byte> packed(static_cast<size_t>(tensor_bytes(type, file_.get("x").shape)));
  quantize_row(type, x.data(), packed.data(), static_cast<int64_t>(x.size()));
  ASSERT_EQ(packed.size(), expected.data.size());
  for (size_t i = 0; i < packed.size(); ++i)
    ASSERT_EQ(packed[i], expected.data[i]) << name << " byte " << i;

  std::vector<float> values(x.size());
  dequantize_row(type, expected.data.data(), values.data(), static_cast<int64_t>(values.size()));
  const std::vector<float> expected_values = to_floats(file_.get(name + ".values"));
  EXPECT_EQ(std::memcmp(values.data(), expected_values.data(), values.size() * sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, Quantize,
                         ::testing::Values(DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0,
                                           DType::Q4_1, DType::Q5_0, DType::Q5_1),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

// quants/NAME.safetensors: random blocks and what the Python package gguf makes of them. Each type
// that is read needs one (make_quants.py).
class Dequantize : public ::testing::TestWithParam<DType> {};

TEST_P(Dequantize, AgreesWithGgufPackageBitForBit) {
  const DType type = GetParam();
  const std::string name(dtype_name(type));
  const WeightFile file = open_safetensors(data_path("quants/" + name + ".safetensors")).weights;
  const TensorView& blocks = file.get("blocks");
  ASSERT_EQ(blocks.shape[1], block_bytes(type));
  const std::vector<float> expected = to_floats(file.get("values"));
  ASSERT_EQ(static_cast<int64_t>(expected.size()), blocks.shape[0] * block_values(type));
  ASSERT_GE(blocks.shape[0], 8);
  std::vector<float> values(expected.size());
  dequantize_row(type, blocks.data.data(), values.data(), static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[i]))
        << "value " << i << ": " << values[i] << ", expected " << expected[i];
}

INSTANTIATE_TEST_SUITE_P(Types, Dequantize, ::testing::ValuesIn(quantized_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(Quantize, ErrorIsBoundedByTheStep) {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[i] = std::sin(static_cast<float>(i)) * 3;
  const float amax = 3;
  const std::vector<std::pair<DType, float>> steps = {{DType::Q8_0, amax / 127},
                                                      {DType::Q4_0, amax / 8},
                                                      {DType::Q4_1, 2 * amax / 15},
                                                      {DType::Q5_0, amax / 16},
                                                      {DType::Q5_1, 2 * amax / 31}};
  for (const auto& [type, step] : steps) {
    std::vector<std::byte> packed(static_cast<size_t>(block_bytes(type)));
    std::vector<float> back(32);
    quantize_row(type, x.data(), packed.data(), 32);
    dequantize_row(type, packed.data(), back.data(), 32);
    // Of Q4_0 and Q5_0 the largest positive value may lose a whole step: their range is -8..7.
    const float bound =
        step * (quant_layout(type).zero == 8 || quant_layout(type).zero == 16 ? 1.01f : 0.51f);
    for (int i = 0; i < 32; ++i) EXPECT_NEAR(back[i], x[i], bound) << dtype_name(type) << " " << i;
  }
}

// The relative error for normal values, which a search that got worse would exceed. llama.cpp's:
// 0.0178, 0.0361, 0.0714, 0.151, 0.297 (scripts/compare_quantizers.py).
TEST(Quantize, SearchedScalesAreGood) {
  Philox random(3, 0);
  std::vector<float> x(64 * 256);
  for (float& value : x) {
    value = 0;
    for (int i = 0; i < 12; ++i) value += random.next_uniform() - 0.5f;
  }
  for (const auto& [type, most] : {std::pair{DType::Q6_K, 0.0176},
                                   {DType::Q5_K, 0.0352},
                                   {DType::Q4_K, 0.0712},
                                   {DType::Q3_K, 0.148},
                                   {DType::Q2_K, 0.273}}) {
    for (const float size : {0.02f, 3e-5f, 1000.0f}) {
      std::vector<float> scaled = x, back(x.size());
      for (float& value : scaled) value *= size;
      std::vector<std::byte> packed(
          static_cast<size_t>(tensor_bytes(type, {static_cast<int64_t>(x.size())})));
      quantize_row(type, scaled.data(), packed.data(), static_cast<int64_t>(x.size()));
      dequantize_row(type, packed.data(), back.data(), static_cast<int64_t>(x.size()));
      double error = 0, squares = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        error += std::pow(double{back[i]} - scaled[i], 2);
        squares += std::pow(double{scaled[i]}, 2);
      }
      // The F16 of a block's scale has few bits where values are as small as 3e-5.
      EXPECT_LT(std::sqrt(error / squares), size < 1e-4f ? 1.5 * most : most)
          << dtype_name(type) << " " << size;
    }
  }
}

// Blocks of one sign, of one value, of one value that isn't 0.
TEST(Quantize, SearchedScalesOfOddBlocks) {
  for (const DType type : {DType::Q6_K, DType::Q5_K, DType::Q4_K, DType::Q3_K, DType::Q2_K}) {
    std::vector<std::byte> packed(static_cast<size_t>(block_bytes(type)));
    std::vector<float> back(256);
    const auto error = [&](const std::vector<float>& x) {
      quantize_row(type, x.data(), packed.data(), 256);
      dequantize_row(type, packed.data(), back.data(), 256);
      float most = 0;
      for (size_t i = 0; i < 256; ++i) most = std::max(most, std::fabs(back[i] - x[i]));
      return most;
    };
    EXPECT_EQ(error(std::vector<float>(256, 0.0f)), 0) << dtype_name(type);
    EXPECT_LT(error(std::vector<float>(256, 0.7f)), 0.01f) << dtype_name(type);
    EXPECT_LT(error(std::vector<float>(256, -0.7f)), 0.01f) << dtype_name(type);
    EXPECT_LT(error(std::vector<float>(256, 1e-44f)), 1e-40f) << dtype_name(type);
    std::vector<float> x(256, 0.0f);
    x[200] = -5;
    EXPECT_LT(error(x), 0.01f) << dtype_name(type);
    x.assign(256, 1.0f);
    x[17] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_THAT(error_of([&] { error(x); }), HasSubstr("can't be quantized"));
    x[17] = 3e38f;
    EXPECT_THAT(error_of([&] { error(x); }), HasSubstr("f16 scale"));
  }
}

TEST(Quantize, RefusesWhatCanNotBeStored) {
  std::vector<std::byte> out(64);
  for (const DType type : {DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1}) {
    std::vector<float> x(32, 1.0f);
    x[17] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_THAT(error_of([&] { quantize_row(type, x.data(), out.data(), 32); }),
                HasSubstr("can't be quantized"));
    x[17] = -std::numeric_limits<float>::infinity();
    EXPECT_THAT(error_of([&] { quantize_row(type, x.data(), out.data(), 32); }),
                HasSubstr("can't be quantized"));
    x[17] = 3e38f;
    EXPECT_THAT(error_of([&] { quantize_row(type, x.data(), out.data(), 32); }),
                HasSubstr("f16 scale"));
  }
  const std::vector<float> x(32, 1.0f);
  EXPECT_THAT(error_of([&] { quantize_row(DType::I32, x.data(), out.data(), 32); }),
              HasSubstr("I32"));
  for (const DType type : all_types()) {
    if (can_quantize(type)) continue;
    EXPECT_THAT(error_of([&] { quantize_row(type, x.data(), out.data(), block_values(type)); }),
                HasSubstr(fmt::format("can't be written as {}", dtype_name(type))));
  }
}

TEST(Quantize, TinyBlocksBecomeZero) {
  std::vector<float> x(32, 0.0f);
  x[3] = 1e-44f;  // 1 / d overflows
  for (const DType type : {DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1}) {
    std::vector<std::byte> packed(static_cast<size_t>(block_bytes(type)));
    std::vector<float> back(32, 1.0f);
    quantize_row(type, x.data(), packed.data(), 32);
    dequantize_row(type, packed.data(), back.data(), 32);
    for (const float value : back) EXPECT_EQ(value, 0.0f) << dtype_name(type);
  }
}

TEST(DequantizeRow, IntegersAndMisalignedBytes) {
  std::vector<std::byte> bytes(1 + 4 * 8);
  const int64_t longs[] = {-3, int64_t{1} << 40, 0, 7};
  std::memcpy(bytes.data() + 1, longs, sizeof(longs));
  float out[4];
  dequantize_row(DType::I64, bytes.data() + 1, out, 4);
  EXPECT_THAT(out, ::testing::ElementsAre(-3.0f, 0x1p40f, 0.0f, 7.0f));
  const std::byte flags[] = {std::byte{0}, std::byte{1}, std::byte{2}, std::byte{255}};
  dequantize_row(DType::Bool, flags, out, 4);
  EXPECT_THAT(out, ::testing::ElementsAre(0, 1, 1, 1));
  dequantize_row(DType::U8, flags, out, 4);
  EXPECT_THAT(out, ::testing::ElementsAre(0, 1, 2, 255));
  dequantize_row(DType::I8, flags, out, 4);
  EXPECT_THAT(out, ::testing::ElementsAre(0, 1, 2, -1));
}

TEST(WriteAs, StreamsLargeTensorsInPiecesWithTheSameBits) {
  std::vector<float> values((1 << 18) * 2 + 96);  // more than one piece, with a rest
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const TensorView tensor = make_view("t", {static_cast<int64_t>(values.size())}, values);
  for (const DType type : {DType::F32, DType::F16, DType::Q8_0, DType::Q4_1}) {
    std::vector<std::byte> streamed;
    int pieces = 0;
    write_as(tensor, type, [&](std::span<const std::byte> part) {
      streamed.insert(streamed.end(), part.begin(), part.end());
      ++pieces;
    });
    std::vector<std::byte> whole(static_cast<size_t>(tensor_bytes(type, tensor.shape)));
    quantize_row(type, values.data(), whole.data(), static_cast<int64_t>(values.size()));
    EXPECT_EQ(streamed, whole) << dtype_name(type);
    EXPECT_EQ(pieces, type == DType::F32 ? 1 : 3);
  }
}

TEST(WriteAs, ErrorsNameTheTensor) {
  const auto ignore = [](std::span<const std::byte>) {};
  const std::vector<float> values(33, 1.0f);
  const TensorView odd = make_view("odd.weight", {33}, values);
  EXPECT_THAT(error_of([&] { write_as(odd, DType::Q8_0, ignore); }),
              ::testing::AllOf(HasSubstr("odd.weight"), HasSubstr("Q8_0"), HasSubstr("[33]")));
  EXPECT_THAT(error_of([&] { make_view("short", {34}, values); }), HasSubstr("short"));
  EXPECT_THAT(error_of([&] { to_ints(odd); }), HasSubstr("odd.weight"));
}

}  // namespace
}  // namespace reprise
