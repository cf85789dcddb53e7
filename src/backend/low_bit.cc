#include "backend/low_bit.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace reprise {
namespace {

constexpr uint8_t kNf4Zero = 7;  // the level 0

// The level nearest to x in [-1, 1]: between two levels their middle decides, itself to the lower.
uint8_t nearest_nf4(float x) {
  static const std::array<float, 15> middles = [] {
    std::array<float, 15> m;
    const auto& levels = nf4_levels();
    for (size_t i = 0; i < m.size(); ++i)
      m[i] = static_cast<float>((double{levels[i]} + double{levels[i + 1]}) / 2);
    return m;
  }();
  const auto it = std::lower_bound(middles.begin(), middles.end(), x);
  return static_cast<uint8_t>(it - middles.begin());
}

uint8_t nearest_dynamic(float x) {
  const auto& map = dynamic_map();
  const auto above = std::lower_bound(map.begin(), map.end(), x);
  if (above == map.begin()) return 0;
  if (above == map.end()) return static_cast<uint8_t>(map.size() - 1);
  const auto below = above - 1;
  return static_cast<uint8_t>((*above - x < x - *below ? above : below) - map.begin());
}

float largest(std::span<const float> values) {
  float most = 0;
  for (const float value : values) most = std::max(most, std::abs(value));
  return most;
}

void quantize_nf4(std::span<const float> values, LowBitWeight& out) {
  const auto n = static_cast<int64_t>(values.size());
  out.codes.assign(static_cast<size_t>((n + 1) / 2), 0);
  if (n % 2) out.codes.back() = kNf4Zero;
  for (int64_t begin = 0; begin < n; begin += LowBitWeight::kBlock) {
    const int64_t count = std::min(LowBitWeight::kBlock, n - begin);
    const auto block = values.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    const float most = largest(block);
    const float inverse = most > 0 ? 1.0f / most : 0.0f;
    out.scales.push_back(most);
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t code = nearest_nf4(block[static_cast<size_t>(i)] * inverse);
      const int64_t at = begin + i;
      uint8_t& byte = out.codes[static_cast<size_t>(at / 2)];
      byte = at % 2 == 0 ? static_cast<uint8_t>((byte & 15) | code << 4)
                         : static_cast<uint8_t>((byte & 0xF0) | code);
    }
  }
}

// Quantizes the blocks' magnitudes again.
void quantize_scales(LowBitWeight& out) {
  double sum = 0;
  for (const float scale : out.scales) sum += scale;
  out.offset =
      static_cast<float>(sum / static_cast<double>(std::max<size_t>(1, out.scales.size())));
  std::vector<float> centred = out.scales;
  for (float& scale : centred) scale -= out.offset;
  out.scales.clear();
  constexpr auto kOuter = static_cast<size_t>(LowBitWeight::kOuterBlock);
  for (size_t begin = 0; begin < centred.size(); begin += kOuter) {
    const auto block = std::span(centred).subspan(begin, std::min(kOuter, centred.size() - begin));
    const float most = largest(block);
    const float inverse = most > 0 ? 1.0f / most : 0.0f;
    out.scales.push_back(most);
    for (const float scale : block) out.scale_codes.push_back(nearest_dynamic(scale * inverse));
  }
}

void quantize_int8(std::span<const float> values, LowBitWeight& out) {
  out.codes.resize(values.size());
  for (int64_t r = 0; r < out.rows; ++r) {
    const auto row =
        values.subspan(static_cast<size_t>(r * out.cols), static_cast<size_t>(out.cols));
    const float most = largest(row);
    out.scales.push_back(most);
    const float factor = most > 0 ? 127.0f / most : 0.0f;
    for (int64_t c = 0; c < out.cols; ++c)
      out.codes[static_cast<size_t>(r * out.cols + c)] = static_cast<uint8_t>(
          static_cast<int8_t>(std::nearbyint(row[static_cast<size_t>(c)] * factor)));
  }
}

}  // namespace

const std::array<float, 16>& nf4_levels() {
  static const std::array<float, 16> levels = {-1.0f,
                                               -0.6961928009986877f,
                                               -0.5250730514526367f,
                                               -0.39491748809814453f,
                                               -0.28444138169288635f,
                                               -0.18477343022823334f,
                                               -0.09105003625154495f,
                                               0.0f,
                                               0.07958029955625534f,
                                               0.16093020141124725f,
                                               0.24611230194568634f,
                                               0.33791524171829224f,
                                               0.44070982933044434f,
                                               0.5626170039176941f,
                                               0.7229568362236023f,
                                               1.0f};
  return levels;
}

// Seven decades; decade e (from 1e-6 to 1) has 2^e values a sign, the middles of equal parts of
// [0.1, 1]; and 0 and 1. In F32 as PyTorch computes it: linspace by fused multiply-adds from the
// nearer end.
const std::array<float, 256>& dynamic_map() {
  static const std::array<float, 256> map = [] {
    std::vector<float> values = {0.0f, 1.0f};
    for (int e = 0; e < 7; ++e) {
      const int parts = 1 << e, bounds = parts + 1;
      const float step = (1.0f - 0.1f) / static_cast<float>(parts);
      const auto bound = [&](int i) {
        return i < bounds / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                              : std::fma(-step, static_cast<float>(parts - i), 1.0f);
      };
      const auto decade = static_cast<float>(std::pow(10.0, e - 6));
      for (int i = 0; i < parts; ++i) {
        const float middle = decade * ((bound(i) + bound(i + 1)) / 2);
        values.push_back(middle);
        values.push_back(-middle);
      }
    }
    std::sort(values.begin(), values.end());
    REPRISE_CHECK(values.size() == 256, "{} values", values.size());
    std::array<float, 256> out;
    std::copy(values.begin(), values.end(), out.begin());
    return out;
  }();
  return map;
}

float LowBitWeight::block_scale(int64_t block) const {
  if (kind == LowBitKind::Nf4) return scales[static_cast<size_t>(block)];
  return dynamic_map()[scale_codes[static_cast<size_t>(block)]] *
             scales[static_cast<size_t>(block / kOuterBlock)] +
         offset;
}

void LowBitWeight::dequantize(int64_t begin, int64_t end, float* out) const {
  if (kind == LowBitKind::Int8) {
    for (int64_t i = begin; i < end; ++i) {
      const float scale = scales[static_cast<size_t>(i / cols)] * (1.0f / 127.0f);
      out[i - begin] =
          static_cast<float>(static_cast<int8_t>(codes[static_cast<size_t>(i)])) * scale;
    }
    return;
  }
  const auto& levels = nf4_levels();
  for (int64_t i = begin; i < end;) {
    const int64_t stop = std::min(end, (i / kBlock + 1) * kBlock);
    const float scale = block_scale(i / kBlock);
    for (; i < stop; ++i) {
      const uint8_t byte = codes[static_cast<size_t>(i / 2)];
      out[i - begin] = levels[i % 2 == 0 ? byte >> 4 : byte & 15] * scale;
    }
  }
}

LowBitWeight quantize_low_bit(std::span<const float> values, int64_t rows, int64_t cols,
                              LowBitKind kind) {
  REPRISE_CHECK(static_cast<int64_t>(values.size()) == rows * cols, "{} values for {} x {}",
                values.size(), rows, cols);
  LowBitWeight out;
  out.kind = kind;
  out.rows = rows;
  out.cols = cols;
  if (kind == LowBitKind::Int8) {
    quantize_int8(values, out);
  } else {
    quantize_nf4(values, out);
    if (kind == LowBitKind::Nf4Double) quantize_scales(out);
  }
  return out;
}

}  // namespace reprise
