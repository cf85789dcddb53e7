// Every table of matrix kernels that this machine can run, against the scalar oracle and against
// sums in double. quantize, packed_int8 and packed_f32 must give the oracle's bits; dense_f32 adds
// in another order and gets a tolerance.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/matmul_tables.h"
#include "backend/cpu/memory/packing.h"
#include "base/half.h"
#include "base/quant/rows.h"
#include "support/quant_blocks.h"

namespace reprise::cpu {
namespace {

using testing::Each;
using testing::Eq;

struct Table {
  std::string name;
  MatmulKernels kernels;
};

// Says which instruction sets are tested natively, which through simde, which not at all.
std::vector<Table> make_tables() {
  std::vector<Table> tables = {{"scalar", kMatmulScalar}};
  bool native_avx2 = false, native_avx512 = false, simde = false;
#if REPRISE_CPU_X86
  native_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
  native_avx512 = native_avx2 && __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (native_avx2) tables.push_back({"avx2", kMatmulAvx2});
  if (native_avx512) tables.push_back({"avx512_vnni", kMatmulAvx512Vnni});
#endif
#if REPRISE_CPU_SIMDE
  simde = true;
  tables.push_back({"avx2_simde", kMatmulAvx2Simde});
  tables.push_back({"avx512_vnni_simde", kMatmulAvx512VnniSimde});
#endif
  const auto how = [&](bool native) {
    if (native) return simde ? "natively and through simde" : "natively";
    return simde ? "through simde only" : "NOT AT ALL";
  };
  std::printf("[ kernels  ] scalar: natively; avx2: %s; avx512_vnni: %s\n", how(native_avx2),
              how(native_avx512));
  return tables;
}

const std::vector<Table>& tables() {
  static const std::vector<Table> all = make_tables();
  return all;
}

const std::vector<DType> kQuantized = quantized_types();
const DType kDense[] = {DType::F32, DType::BF16, DType::F16};

using Rng = std::mt19937;

std::vector<float> random_floats(Rng& rng, int64_t count, float spread = 1) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

// k, or the least that the type's blocks allow.
int64_t width(DType type, int64_t k) {
  return std::max<int64_t>(k / block_values(type), 1) * block_values(type);
}
size_t row_bytes(DType type, int64_t k) {
  return static_cast<size_t>(k / block_values(type) * block_bytes(type));
}

// Calls set(block) for every block of rows of a file with any codes and quants.
template <class Set>
std::vector<std::byte> random_blocks(Rng& rng, DType type, int64_t n, int64_t k, const Set& set) {
  std::vector<std::byte> rows(static_cast<size_t>(n) * row_bytes(type, k));
  std::uniform_int_distribution<int> any(0, 255);
  for (std::byte& b : rows) b = static_cast<std::byte>(any(rng));
  for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(block_bytes(type)))
    set(&rows[at]);
  return rows;
}
std::vector<std::byte> random_rows(Rng& rng, DType type, int64_t n, int64_t k) {
  const test::QuantBlocks blocks(type);
  std::normal_distribution<float> normal(0, 0.02f);
  return random_blocks(rng, type, n, k, [&](std::byte* block) {
    for (size_t i = 0; blocks.has_number(i); ++i) blocks.set_number(block, i, normal(rng));
    blocks.set_exponent(block, 122 + static_cast<int>(rng() % 3));
  });
}

// A row of the file without the packed layout.
std::vector<float> dequantize(DType type, const std::byte* row, int64_t k) {
  std::vector<float> values(static_cast<size_t>(k));
  dequantize_row(type, row, values.data(), k);
  return values;
}

struct Quantized {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum, half_sum;
  QuantizedRows rows(int64_t first = 0, int64_t k = 0) const {
    return {q.data() + first * k, scale.data() + first * k / 32, sum.data() + first * k / 32,
            half_sum.data() + first * k / 16};
  }
};

Quantized quantize(const MatmulKernels& kernels, const std::vector<float>& x, int64_t m, int64_t k,
                   int64_t ldx) {
  Quantized result;
  result.q.assign(static_cast<size_t>(m * k), 99);
  result.scale.assign(static_cast<size_t>(m * k / 32), -1);
  result.sum.assign(static_cast<size_t>(m * k / 32), -1);
  result.half_sum.assign(static_cast<size_t>(m * k / 16), -1);
  kernels.quantize(x.data(), m, k, ldx, result.q.data(), result.scale.data(), result.sum.data(),
                   result.half_sum.data());
  return result;
}

// Bits, so that -0 differs from 0 and NaN equals itself.
std::vector<uint32_t> bits(const std::vector<float>& values) {
  std::vector<uint32_t> result;
  for (float value : values)
    result.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value));
  return result;
}

constexpr float kUntouched = 12345.0f;

// out [m, ldo] of a product over all n columns, the padding still untouched.
std::vector<float> blank(int64_t m, int64_t ldo) {
  return std::vector<float>(static_cast<size_t>(m * ldo), kUntouched);
}

std::vector<float> int8_product(const MatmulKernels& kernels, const Quantized& x, int64_t m,
                                DType type, int64_t n, int64_t k,
                                const std::vector<std::byte>& rows) {
  const PackedWeights w = pack(type, n, k, rows.data(), kernels.panel, nullptr);
  std::vector<float> out = blank(m, n + 3);
  kernels.packed_int8(x.rows(), m, w.matrix(), 0, n, out.data(), n + 3);
  return out;
}

std::vector<float> float_product(const MatmulKernels& kernels, const std::vector<float>& x,
                                 int64_t m, int64_t ldx, DType type, int64_t n, int64_t k,
                                 const std::vector<std::byte>& rows) {
  const PackedWeights w = pack(type, n, k, rows.data(), kernels.panel, nullptr);
  std::vector<float> out = blank(m, n + 3);
  kernels.packed_f32(x.data(), m, ldx, w.matrix(), 0, n, out.data(), n + 3);
  return out;
}

TEST(Packing, UnpacksWhatTheFileHolds) {
  Rng rng(1);
  ThreadPool pool(2);
  for (DType type : kQuantized) {
    for (int panel : {0, 8, 16}) {
      for (int64_t n : {1, 8, 15, 16, 33}) {
        const int64_t k = width(type, 96) * 3;
        const std::vector<std::byte> rows = random_rows(rng, type, n, k);
        const PackedWeights w = pack(type, n, k, rows.data(), panel, panel == 8 ? &pool : nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(w.matrix().quants) % 64, 0u);
        for (int64_t row = 0; row < n; ++row) {
          std::vector<float> out(static_cast<size_t>(k));
          unpack_row(w.matrix(), row, out.data());
          const size_t at = static_cast<size_t>(row) * row_bytes(type, k);
          ASSERT_EQ(bits(out), bits(dequantize(type, &rows[at], k)))
              << dtype_name(type) << " panel " << panel << " n " << n << " row " << row;
        }
      }
    }
  }
}

TEST(Packing, TakesUnalignedRowsAndBigMatrices) {  // large enough for huge pages
  Rng rng(2);
  const int64_t n = 9000, k = 1024;
  std::vector<std::byte> rows = random_rows(rng, DType::Q4_1, n, k);
  rows.insert(rows.begin(), std::byte{7});
  const PackedWeights w = pack(DType::Q4_1, n, k, rows.data() + 1, 16, nullptr);
  EXPECT_GE(w.bytes(), n * k * 5 / 8);
  std::vector<float> out(k);
  unpack_row(w.matrix(), n - 1, out.data());
  EXPECT_EQ(bits(out), bits(dequantize(DType::Q4_1, &rows[rows.size() - k / 32 * 20], k)));
}

TEST(Quantize, KeepsTheOraclesBits) {
  Rng rng(3);
  for (const Table& table : tables()) {
    const int64_t m = 5, k = 96, ldx = 99;
    for (float spread : {1.0f, 1e-30f, 1e30f}) {
      const std::vector<float> x = random_floats(rng, m * ldx, spread);
      const Quantized expected = quantize(tables()[0].kernels, x, m, k, ldx);
      const Quantized found = quantize(table.kernels, x, m, k, ldx);
      EXPECT_EQ(found.q, expected.q) << table.name;
      EXPECT_EQ(found.scale, expected.scale) << table.name;
      EXPECT_EQ(found.sum, expected.sum) << table.name;
      EXPECT_EQ(found.half_sum, expected.half_sum) << table.name;
      for (size_t i = 0; i < found.sum.size(); ++i)
        EXPECT_EQ(found.half_sum[2 * i] + found.half_sum[2 * i + 1], found.sum[i]) << table.name;
      for (int64_t i = 0; i < m * k; ++i) {
        const size_t at = static_cast<size_t>(i);
        const float value = x[static_cast<size_t>(i / k * ldx + i % k)];
        const float scale = found.scale[at / 32];
        ASSERT_LE(std::fabs(value - scale * found.q[at]), 0.5001f * scale) << table.name;
      }
    }
  }
}

TEST(Quantize, RoundsHalfToEvenAndSumsUp) {
  std::vector<float> x(32, 0.0f);
  x[0] = -127, x[1] = 0.5f, x[2] = 1.5f, x[3] = -2.5f, x[31] = 126.5f;
  for (const Table& table : tables()) {
    const Quantized found = quantize(table.kernels, x, 1, 32, 32);
    EXPECT_EQ(found.scale[0], 1.0f) << table.name;
    EXPECT_EQ(found.q[0], -127) << table.name;
    EXPECT_EQ(found.q[1], 0) << table.name;
    EXPECT_EQ(found.q[2], 2) << table.name;
    EXPECT_EQ(found.q[3], -2) << table.name;
    EXPECT_EQ(found.q[31], 126) << table.name;
    EXPECT_EQ(found.sum[0], -1) << table.name;
  }
}

TEST(Quantize, HostileBlocks) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float huge = std::numeric_limits<float>::max();
  for (const Table& table : tables()) {
    for (float bad : {inf, -inf, nan, -nan}) {
      std::vector<float> x(64, 1.0f);
      x[40] = bad;
      const Quantized found = quantize(table.kernels, x, 1, 64, 64);
      EXPECT_EQ(found.scale[0], 1.0f / 127) << table.name;  // the block beside it is not touched
      EXPECT_TRUE(std::isnan(found.scale[1])) << table.name << " " << bad;
    }
    for (float small : {0.0f, -0.0f, 1e-45f, -1e-38f, 3.7e-37f}) {
      const Quantized found = quantize(table.kernels, std::vector<float>(32, small), 1, 32, 32);
      EXPECT_EQ(found.scale[0], 0.0f) << table.name << " " << small;
      EXPECT_THAT(found.q, Each(Eq(0))) << table.name << " " << small;
      EXPECT_EQ(found.sum[0], 0) << table.name << " " << small;
    }
    for (float big : {huge, -huge, 4e-37f}) {
      const Quantized found = quantize(table.kernels, std::vector<float>(32, big), 1, 32, 32);
      EXPECT_THAT(found.q, Each(Eq(big < 0 ? -127 : 127))) << table.name << " " << big;
      EXPECT_EQ(found.scale[0], std::fabs(big) / 127) << table.name << " " << big;
    }
  }
}

const int64_t kBatches[] = {1, 2, 3, 4, 5, 7, 9, 33};

TEST(PackedInt8, OracleAgreesWithDouble) {
  Rng rng(4);
  for (DType type : kQuantized) {
    const int64_t m = 3, n = 17, k = width(type, 576);
    const std::vector<std::byte> rows = random_rows(rng, type, n, k);
    const Quantized x = quantize(tables()[0].kernels, random_floats(rng, m * k), m, k, k);
    const std::vector<float> out = int8_product(tables()[0].kernels, x, m, type, n, k, rows);
    for (int64_t j = 0; j < n; ++j) {
      const std::vector<float> w =
          dequantize(type, &rows[static_cast<size_t>(j) * row_bytes(type, k)], k);
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0, magnitude = 0;
        for (int64_t at = 0; at < k; ++at) {
          const double value = static_cast<double>(x.q[static_cast<size_t>(i * k + at)]) *
                               x.scale[static_cast<size_t>((i * k + at) / 32)];
          sum += value * w[static_cast<size_t>(at)];
          magnitude += std::fabs(value * w[static_cast<size_t>(at)]);
        }
        // A few roundings of 2^-24 per block of 32, against sums of magnitudes.
        EXPECT_NEAR(out[static_cast<size_t>(i * (n + 3) + j)], sum, 1e-6 * magnitude)
            << dtype_name(type);
      }
    }
  }
}

TEST(PackedInt8, KeepsTheOraclesBits) {
  Rng rng(5);
  for (DType type : kQuantized) {
    for (int64_t k0 : {32, 64, 96, 576, 1536}) {
      const int64_t k = width(type, k0);
      if (k > k0 && k0 > 32) continue;
      for (int64_t n : {1, 8, 17, 70}) {
        const std::vector<std::byte> rows = random_rows(rng, type, n, k);
        for (int64_t m : kBatches) {
          if (k > 96 && n != 17 && n != 70 && m > 2) continue;  // time
          const Quantized x = quantize(tables()[0].kernels, random_floats(rng, m * k), m, k, k);
          const std::vector<uint32_t> expected =
              bits(int8_product(tables()[0].kernels, x, m, type, n, k, rows));
          for (const Table& table : tables())
            ASSERT_EQ(bits(int8_product(table.kernels, x, m, type, n, k, rows)), expected)
                << table.name << " " << dtype_name(type) << " m " << m << " n " << n << " k " << k;
        }
      }
    }
  }
}

// The largest dots there are: a saturating or overflowing step would show.
TEST(PackedInt8, ExtremeQuantsAreExact) {
  for (DType type : kQuantized) {
    const int64_t k = width(type, 64), n = 16, m = 3;
    const test::QuantBlocks blocks(type);
    for (int w_byte : {0x80, 0x7f, 0xff, 0x00, 0x77, 0x88}) {
      for (int x_value : {127, -127}) {
        const size_t block = static_cast<size_t>(block_bytes(type));
        std::vector<std::byte> rows(static_cast<size_t>(n) * row_bytes(type, k),
                                    static_cast<std::byte>(w_byte));
        for (size_t at = 0; at < rows.size(); at += block) {
          if (blocks.has_number(0)) blocks.set_number(&rows[at], 0, 0x1p-10f);
          if (blocks.has_number(1)) blocks.set_number(&rows[at], 1, -0x1p-7f);
          blocks.set_exponent(&rows[at], 128);
        }
        Quantized x;
        x.q.assign(static_cast<size_t>(m * k), static_cast<int8_t>(x_value));
        x.scale.assign(static_cast<size_t>(m * k / 32), 1.0f);
        x.sum.assign(static_cast<size_t>(m * k / 32), 32 * x_value);
        x.half_sum.assign(static_cast<size_t>(m * k / 16), 16 * x_value);
        double sum = 0, magnitude = 0;
        for (const float w : dequantize(type, rows.data(), k)) {
          sum += static_cast<double>(w) * x_value;
          magnitude += std::fabs(static_cast<double>(w) * x_value);
        }
        const auto expected = int8_product(tables()[0].kernels, x, m, type, n, k, rows);
        EXPECT_NEAR(expected[0], sum, 1e-6 * magnitude) << dtype_name(type);
        for (const Table& table : tables()) {
          const std::vector<float> out = int8_product(table.kernels, x, m, type, n, k, rows);
          ASSERT_EQ(bits(out), bits(expected))
              << table.name << " " << dtype_name(type) << " w " << w_byte << " x " << x_value;
        }
      }
    }
  }
}

// Scales from subnormal F16 to the largest, -0 and activations over the whole range of float.
TEST(PackedInt8, ExtremeScalesKeepTheOraclesBits) {
  Rng rng(6);
  const float scales[] = {65504.0f, -65504.0f, 0.0f, -0.0f, 0x1p-24f, 1.0f};
  const int64_t m = 4, n = 18;
  for (DType type : kQuantized) {
    const int64_t k = width(type, 96);
    const test::QuantBlocks blocks(type);
    size_t next = 0;
    const std::vector<std::byte> rows = random_blocks(rng, type, n, k, [&](std::byte* block) {
      if (blocks.has_number(0)) blocks.set_number(block, 0, scales[next++ % 6]);
      if (blocks.has_number(1)) blocks.set_number(block, 1, scales[next++ % 5]);
      blocks.set_exponent(block, static_cast<int>(next++ * 17 % 140));
    });
    std::vector<float> values = random_floats(rng, m * k);
    for (size_t i = 0; i < values.size(); ++i) values[i] *= i / 32 % 2 ? 1e30f : 1e-30f;
    for (size_t i = 0; i < 32; ++i) values[i] = -0.0f;
    const Quantized x = quantize(tables()[0].kernels, values, m, k, k);
    const auto expected = bits(int8_product(tables()[0].kernels, x, m, type, n, k, rows));
    const auto expected_float =
        bits(float_product(tables()[0].kernels, values, m, k, type, n, k, rows));
    for (const Table& table : tables()) {
      EXPECT_EQ(bits(int8_product(table.kernels, x, m, type, n, k, rows)), expected)
          << table.name << " " << dtype_name(type);
      EXPECT_EQ(bits(float_product(table.kernels, values, m, k, type, n, k, rows)), expected_float)
          << table.name << " " << dtype_name(type);
    }
  }
}

TEST(PackedF32, OracleAgreesWithDouble) {
  Rng rng(7);
  for (DType type : kQuantized) {
    const int64_t m = 2, n = 9, k = 1536;
    const std::vector<std::byte> rows = random_rows(rng, type, n, k);
    const std::vector<float> x = random_floats(rng, m * k);
    const std::vector<float> out = float_product(tables()[0].kernels, x, m, k, type, n, k, rows);
    for (int64_t j = 0; j < n; ++j) {
      const std::vector<float> w =
          dequantize(type, &rows[static_cast<size_t>(j) * row_bytes(type, k)], k);
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0, magnitude = 0;
        for (int64_t at = 0; at < k; ++at) {
          const double term =
              static_cast<double>(x[static_cast<size_t>(i * k + at)]) * w[static_cast<size_t>(at)];
          sum += term;
          magnitude += std::fabs(term);
        }
        // k roundings of 2^-24 that mostly cancel.
        EXPECT_NEAR(out[static_cast<size_t>(i * (n + 3) + j)], sum, 3e-6 * magnitude)
            << dtype_name(type);
      }
    }
  }
}

TEST(PackedF32, KeepsTheOraclesBits) {
  Rng rng(8);
  for (DType type : kQuantized) {
    for (int64_t k0 : {32, 96, 576}) {
      const int64_t k = width(type, k0);
      if (k > k0 && k0 > 32) continue;
      for (int64_t n : {1, 8, 17, 70}) {
        const std::vector<std::byte> rows = random_rows(rng, type, n, k);
        for (int64_t m : kBatches) {
          if (k > 96 && n != 17 && n != 70) continue;  // time
          if (k > 96 && m > 9) continue;
          const std::vector<float> x = random_floats(rng, m * (k + 5));
          const std::vector<uint32_t> expected =
              bits(float_product(tables()[0].kernels, x, m, k + 5, type, n, k, rows));
          for (const Table& table : tables())
            ASSERT_EQ(bits(float_product(table.kernels, x, m, k + 5, type, n, k, rows)), expected)
                << table.name << " " << dtype_name(type) << " m " << m << " n " << n << " k " << k;
        }
      }
    }
  }
}

std::vector<std::byte> dense_rows(Rng& rng, DType type, int64_t count, size_t misalign) {
  const size_t width = type == DType::F32 ? 4 : 2;
  std::vector<std::byte> bytes(misalign + static_cast<size_t>(count) * width);
  const std::vector<float> values = random_floats(rng, count);
  for (size_t i = 0; i < values.size(); ++i) {
    std::byte* const at = &bytes[misalign + i * width];
    if (type == DType::F32) {
      std::memcpy(at, &values[i], 4);
    } else {
      const uint16_t half =
          type == DType::BF16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
      std::memcpy(at, &half, 2);
    }
  }
  return bytes;
}

TEST(DenseF32, AgreesWithTheOracle) {
  Rng rng(9);
  for (DType type : kDense) {
    for (int64_t k : {1, 3, 7, 15, 16, 17, 31, 33, 100, 588}) {
      for (int64_t n : {1, 3, 4, 8, 15, 17, 33}) {
        for (int64_t m : kBatches) {
          const size_t misalign = static_cast<size_t>((k + n + m) % 4);
          const std::vector<std::byte> w = dense_rows(rng, type, n * k, misalign);
          const int64_t ldx = k + 2, ldo = n + 3;
          const std::vector<float> x = random_floats(rng, m * ldx);
          std::vector<float> expected = blank(m, ldo);
          tables()[0].kernels.dense_f32(x.data(), m, ldx, &w[misalign], type, 0, n, k,
                                        expected.data(), ldo);
          // Terms are around 1: the sum of their magnitudes is about k, each of the at most
          // k / 8 + 4 additions of a lane rounds by 2^-24 of a partial sum of about sqrt(k).
          const float tolerance = 2e-6f * std::sqrt(static_cast<float>(k)) + 1e-7f;
          for (const Table& table : tables()) {
            std::vector<float> found = blank(m, ldo);
            table.kernels.dense_f32(x.data(), m, ldx, &w[misalign], type, 0, n, k, found.data(),
                                    ldo);
            for (size_t i = 0; i < found.size(); ++i)
              ASSERT_NEAR(found[i], expected[i], tolerance)
                  << table.name << " " << dtype_name(type) << " m " << m << " n " << n << " k " << k
                  << " at " << i;
          }
        }
      }
    }
  }
}

// Values past the end of the last row of x and w must not be read into the result.
TEST(DenseF32, NothingBeyondTheRowCounts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Table& table : tables()) {
    for (int64_t k : {1, 7, 16, 19}) {
      const int64_t m = 2, n = 3, ldx = k + 20;
      std::vector<float> x(static_cast<size_t>(m * ldx), nan);
      std::vector<float> w(static_cast<size_t>(n * k + 20), nan);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < k; ++j) x[static_cast<size_t>(i * ldx + j)] = 2;
      for (int64_t i = 0; i < n * k; ++i) w[static_cast<size_t>(i)] = 3;
      std::vector<float> out = blank(m, n);
      table.kernels.dense_f32(x.data(), m, ldx, reinterpret_cast<const std::byte*>(w.data()),
                              DType::F32, 0, n, k, out.data(), n);
      EXPECT_THAT(out, Each(Eq(static_cast<float>(6 * k)))) << table.name << " k " << k;
    }
  }
}

// ---- The bits of a result depend on its own row of x and of w alone.
// run(first row of x, rows, n0, n1, out at that row)
template <class Run>
void expect_same_bits_however_cut(int64_t m, int64_t n, int cut, const std::string& what,
                                  const Run& run) {
  const int64_t ldo = n;
  std::vector<float> whole = blank(m, ldo);
  run(0, m, 0, n, whole.data());
  for (int64_t rows = 1; rows < m; ++rows) {
    std::vector<float> parts = blank(m, ldo);
    for (int64_t i = 0; i < m; i += rows)
      run(i, std::min(rows, m - i), 0, n, parts.data() + i * ldo);
    ASSERT_EQ(bits(parts), bits(whole)) << what << ", " << rows << " rows at a time of " << m;
  }
  std::vector<float> parts = blank(m, ldo);
  for (int64_t j = 0; j < n; j += cut) run(0, m, j, std::min<int64_t>(j + cut, n), parts.data());
  ASSERT_EQ(bits(parts), bits(whole)) << what << ", " << cut << " columns at a time";
}

TEST(Determinism, PackedRowsAloneOrInABatch) {
  Rng rng(10);
  for (const Table& table : tables()) {
    const MatmulKernels& kernels = table.kernels;
    for (DType type : kQuantized) {
      for (int64_t m : {9, 14}) {
        const int64_t n = 75,
                      k = width(type, 1632);  // k: several chunks of the cache, the last one short
        if (table.name.find("avx") != 0 || table.name.find("simde") != std::string::npos) {
          if (m > 9) continue;  // time
        }
        const std::vector<std::byte> rows = random_rows(rng, type, n, k);
        const PackedWeights w = pack(type, n, k, rows.data(), kernels.panel, nullptr);
        const std::vector<float> x = random_floats(rng, m * k);
        const Quantized q = quantize(kernels, x, m, k, k);
        const std::string what = table.name + " " + std::string(dtype_name(type));
        expect_same_bits_however_cut(
            m, n, 16, what + " int8",
            [&](int64_t i, int64_t count, int64_t n0, int64_t n1, float* out) {
              kernels.packed_int8(q.rows(i, k), count, w.matrix(), n0, n1, out, n);
            });
        const PackedWeights narrow =
            pack(type, n, width(type, 96), rows.data(), kernels.panel, nullptr);
        expect_same_bits_however_cut(
            m, n, 32, what + " f32",
            [&](int64_t i, int64_t count, int64_t n0, int64_t n1, float* out) {
              kernels.packed_f32(x.data() + i * k, count, k, narrow.matrix(), n0, n1, out, n);
            });
      }
    }
  }
}

TEST(Determinism, DenseRowsAloneOrInABatch) {
  Rng rng(11);
  for (const Table& table : tables()) {
    for (DType type : kDense) {
      for (int64_t k : {7, 100, 6000}) {  // 6000: strips of few rows
        const int64_t m = 13, n = k > 1000 ? 19 : 75;
        const std::vector<std::byte> w = dense_rows(rng, type, n * k, 0);
        const std::vector<float> x = random_floats(rng, m * k);
        expect_same_bits_however_cut(
            m, n, 7, table.name + " " + std::string(dtype_name(type)),
            [&](int64_t i, int64_t count, int64_t n0, int64_t n1, float* out) {
              table.kernels.dense_f32(x.data() + i * k, count, k, w.data(), type, n0, n1, k, out,
                                      n);
            });
      }
    }
  }
}

}  // namespace
}  // namespace reprise::cpu
