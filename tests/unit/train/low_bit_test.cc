// NF4 and int8 base weights against bitsandbytes (tests/data/train/make_low_bit.py): the same codes
// and scales to the bit.
#include "backend/low_bit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/safetensors.h"
#include "support/paths.h"

namespace reprise {
namespace {

const WeightFile& judged() {
  static const WeightFile file =
      open_safetensors(test::data_dir() / "train/low_bit.safetensors").weights;
  return file;
}

std::vector<uint8_t> bytes_of(const TensorView& view) {
  std::vector<uint8_t> bytes(view.data.size());
  std::memcpy(bytes.data(), view.data.data(), bytes.size());
  return bytes;
}

std::vector<float> back(const LowBitWeight& weight) {
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  weight.dequantize(0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

class LowBit : public testing::TestWithParam<const char*> {
 protected:
  const TensorView& get(const std::string& name) { return judged().get(GetParam() + ("." + name)); }
  LowBitWeight quantize(LowBitKind kind) {
    const TensorView& x = get("x");
    return quantize_low_bit(to_floats(x), x.shape[0], x.shape[1], kind);
  }
};

TEST_P(LowBit, Nf4IsBitsandbytes) {
  const LowBitWeight weight = quantize(LowBitKind::Nf4);
  EXPECT_EQ(weight.codes, bytes_of(get("nf4.codes")));
  EXPECT_EQ(weight.scales, to_floats(get("nf4.scales")));
  const std::vector<float> found = back(weight);
  for (size_t i = 0; i < found.size(); ++i) {
    const uint8_t code = i % 2 == 0 ? weight.codes[i / 2] >> 4 : weight.codes[i / 2] & 15;
    ASSERT_EQ(found[i], nf4_levels()[code] * weight.scales[i / 64]) << i;
  }
  // bitsandbytes' own CPU kernel reads the scales by rows where a row is no multiple of 64 and then
  // disagrees with its definition, so only the other shape is compared.
  if (weight.cols % 64 == 0) {
    EXPECT_EQ(found, to_floats(get("nf4.back")));
  }
}

TEST_P(LowBit, DoubleQuantizationIsBitsandbytes) {
  const LowBitWeight weight = quantize(LowBitKind::Nf4Double);
  EXPECT_EQ(weight.codes, bytes_of(get("nf4.codes")));
  // The offset is a mean in float32, whose last bit depends on the order of the sum. And
  // bitsandbytes' CPU kernel takes the farther of two neighbouring codes for some scales close to
  // their middle (8 of 272 here); ours takes the nearest.
  EXPECT_FLOAT_EQ(weight.offset, to_floats(get("double.offset"))[0]);
  const std::vector<float> scales = to_floats(get("double.scales"));
  ASSERT_EQ(weight.scales.size(), scales.size());
  for (size_t i = 0; i < scales.size(); ++i) EXPECT_FLOAT_EQ(weight.scales[i], scales[i]) << i;
  const std::vector<uint8_t> codes = bytes_of(get("double.scale_codes"));
  ASSERT_EQ(weight.scale_codes.size(), codes.size());
  size_t moved = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    EXPECT_LE(std::abs(int{weight.scale_codes[i]} - int{codes[i]}), 1) << i;
    moved += weight.scale_codes[i] != codes[i];
  }
  EXPECT_LE(moved, codes.size() / 25);
  const std::vector<float> found = back(weight);
  for (size_t i = 0; i < found.size(); ++i) {
    const uint8_t code = i % 2 == 0 ? weight.codes[i / 2] >> 4 : weight.codes[i / 2] & 15;
    ASSERT_EQ(found[i], nf4_levels()[code] * weight.block_scale(static_cast<int64_t>(i / 64))) << i;
  }
}

TEST_P(LowBit, Int8IsBitsandbytes) {
  const LowBitWeight weight = quantize(LowBitKind::Int8);
  EXPECT_EQ(weight.codes, bytes_of(get("int8.codes")));
  EXPECT_EQ(weight.scales, to_floats(get("int8.scales")));
  const std::vector<float> x = to_floats(get("x")), found = back(weight);
  for (size_t i = 0; i < x.size(); ++i)  // half a step of its row
    EXPECT_LE(std::abs(x[i] - found[i]),
              weight.scales[i / static_cast<size_t>(weight.cols)] / 127 * 0.5001f);
}

TEST_P(LowBit, PartsComeBackAsTheWhole) {
  for (const LowBitKind kind : {LowBitKind::Nf4, LowBitKind::Nf4Double, LowBitKind::Int8}) {
    const LowBitWeight weight = quantize(kind);
    const std::vector<float> whole = back(weight);
    const auto n = static_cast<int64_t>(whole.size());
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{1, 2}, {63, 130}, {n - 65, n}}) {
      std::vector<float> part(static_cast<size_t>(end - begin));
      weight.dequantize(begin, end, part.data());
      EXPECT_EQ(part, std::vector<float>(whole.begin() + begin, whole.begin() + end));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LowBit, testing::Values("plain", "wide"),
                         [](const auto& info) { return std::string(info.param); });

TEST(LowBitTables, AreThePublishedOnes) {
  const std::vector<float> map = to_floats(judged().get("dynamic_map"));
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(dynamic_map()[i], map[i]) << i;
  // QLoRA, appendix E: quantiles of the normal distribution, normalised to [-1, 1]: eight parts
  // below 0, nine above.
  const double offset = 0.9677083;
  const auto quantile = [](double p) {  // by bisection
    double low = -10, high = 10;
    for (int i = 0; i < 200; ++i) {
      const double middle = (low + high) / 2;
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    return low;
  };
  std::vector<double> levels = {0};
  for (int i = 0; i < 8; ++i) levels.push_back(quantile(offset + (0.5 - offset) * i / 8));
  for (int i = 0; i < 7; ++i) levels.push_back(-quantile(offset + (0.5 - offset) * i / 7));
  std::sort(levels.begin(), levels.end());
  ASSERT_EQ(levels.size(), 16u);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_NEAR(nf4_levels()[i], levels[i] / levels.back(), 1e-6) << i;
}

TEST(LowBitSizes, BitsPerValue) {
  const std::vector<float> x(256 * 256, 0.5f);
  const auto bits = [&](LowBitKind kind) {
    return 8.0 * static_cast<double>(quantize_low_bit(x, 256, 256, kind).bytes()) / (256 * 256);
  };
  EXPECT_NEAR(bits(LowBitKind::Nf4), 4.5, 1e-9);
  EXPECT_NEAR(bits(LowBitKind::Nf4Double), 4 + 8.0 / 64 + 32.0 / (64 * 256), 1e-9);  // 4.127
  EXPECT_NEAR(bits(LowBitKind::Int8), 8 + 32.0 / 256, 1e-9);
}

}  // namespace
}  // namespace reprise
