// All 65,536 values of both 16-bit formats, and all points where rounding changes its mind.
#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace reprise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A 16-bit format by its definition (IEEE 754), independent of the code under test: in double,
// which holds every value exactly.
struct Format {
  const char* name;
  int mantissa_bits;
  int exponent_bits;
  float (*decode)(uint16_t);
  uint16_t (*encode)(float);

  int exponent_of(uint32_t bits) const {
    return static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  }
  uint32_t mantissa_of(uint32_t bits) const { return bits & ((1u << mantissa_bits) - 1); }
  bool is_nan(uint32_t bits) const {
    return exponent_of(bits) == (1 << exponent_bits) - 1 && mantissa_of(bits) != 0;
  }
  uint32_t infinity() const { return ((1u << exponent_bits) - 1) << mantissa_bits; }
  // The magnitude of a finite pattern without sign; one beyond the largest gives the value that
  // would follow it.
  double magnitude(uint32_t bits) const {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(bits >> mantissa_bits);
    const double fraction = std::ldexp(mantissa_of(bits), -mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias)
                         : std::ldexp(1.0 + fraction, exponent - bias);
  }
};

class Half : public ::testing::TestWithParam<Format> {};

TEST_P(Half, DecodesEveryValue) {
  const Format& format = GetParam();
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = format.decode(static_cast<uint16_t>(bits));
    const uint32_t magnitude = bits & 0x7fffu;
    ASSERT_EQ(std::signbit(value), bits >> 15 == 1) << bits;
    if (format.is_nan(bits)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else if (magnitude == format.infinity()) {
      ASSERT_EQ(std::fabs(value), kInfinity) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(std::fabs(value)), format.magnitude(magnitude)) << bits;
    }
  }
}

TEST_P(Half, RoundTripsEveryValue) {
  const Format& format = GetParam();
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t back = format.encode(format.decode(static_cast<uint16_t>(bits)));
    if (format.is_nan(bits)) {
      ASSERT_TRUE(format.is_nan(back)) << bits;
      ASSERT_EQ(back >> 15, bits >> 15) << bits;
    } else {
      ASSERT_EQ(back, bits);
    }
  }
}

TEST_P(Half, RoundsToNearestTiesToEvenBetweenAllNeighbours) {
  const Format& format = GetParam();
  for (uint32_t low = 0; low < format.infinity(); ++low) {
    const uint32_t high = low + 1;  // infinity after the largest finite value
    const double middle = (format.magnitude(low) + format.magnitude(high)) / 2;
    const auto tie = static_cast<float>(middle);
    if (static_cast<double>(tie) != middle) continue;  // below float's own subnormals
    const uint32_t even = low % 2 == 0 ? low : high;
    for (const uint32_t sign : {0u, 0x8000u}) {
      const auto encode = [&](float magnitude) {
        return uint32_t{format.encode(sign ? -magnitude : magnitude)};
      };
      ASSERT_EQ(encode(tie), even | sign) << format.name << " after " << low;
      ASSERT_EQ(encode(std::nextafter(tie, 0.0f)), low | sign) << format.name << " after " << low;
      ASSERT_EQ(encode(std::nextafter(tie, kInfinity)), high | sign)
          << format.name << " after " << low;
    }
  }
}

TEST_P(Half, KeepsSpecialValues) {
  const Format& format = GetParam();
  EXPECT_EQ(format.encode(kInfinity), format.infinity());
  EXPECT_EQ(format.encode(-kInfinity), format.infinity() | 0x8000u);
  EXPECT_EQ(format.encode(std::numeric_limits<float>::max()), format.infinity());
  EXPECT_EQ(format.encode(-0.0f), 0x8000u);
  // NaNs whose payload lies only in the bits that are cut off must not become infinity.
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0x7fc00000u})
    EXPECT_TRUE(format.is_nan(format.encode(std::bit_cast<float>(bits)))) << bits;
}

INSTANTIATE_TEST_SUITE_P(Formats, Half,
                         ::testing::Values(Format{"F16", 10, 5, f16_to_float, float_to_f16},
                                           Format{"BF16", 7, 8, bf16_to_float, float_to_bf16}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace reprise
