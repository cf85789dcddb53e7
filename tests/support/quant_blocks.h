// Random blocks of quantized types with values of a wanted size, whatever order their files have
// things in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "base/quant/rows.h"
#include "base/quant/type.h"

namespace reprise::test {

// Where a block has its F16 numbers, and the first byte of its codes; found by trying.
struct QuantSpots {
  std::vector<int> numbers;
  int code = -1;
};
inline QuantSpots quant_spots(DType type) {
  const QuantLayout& layout = quant_layout(type);
  const auto split = quant_code(type).split;
  QuantSpots spots;
  QuantBlock block = {};
  for (int which = 0; which < layout.numbers; ++which) {
    for (int at = 0; at + 2 <= layout.bytes; ++at) {
      std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes));
      store_at(bytes.data() + at, uint16_t{0x1234});
      split(bytes.data(), block);
      if (block.numbers[which] != 0x1234) continue;
      spots.numbers.push_back(at);
      break;
    }
  }
  if (layout.code == ScaleCode::Exponent) spots.code = 0;
  return spots;
}

class QuantBlocks {
 public:
  explicit QuantBlocks(DType type) : type_(type), spots_(quant_spots(type)) {}

  void set_number(std::byte* block, size_t which, float value) const {
    store_at(block + spots_.numbers.at(which), float_to_f16(value));
  }
  bool has_number(size_t which) const { return which < spots_.numbers.size(); }
  void set_exponent(std::byte* block, int exponent) const {
    if (spots_.code >= 0) block[spots_.code] = static_cast<std::byte>(exponent);
  }

  // Bytes by `next`, then numbers so that the largest value is about `size`.
  template <class Next>
  void fill(std::byte* block, float size, Next next) const {
    const auto values = static_cast<size_t>(block_values(type_));
    for (int64_t i = 0; i < block_bytes(type_); ++i) block[i] = static_cast<std::byte>(next());
    std::vector<float> x(values);
    const auto largest = [&](float d, float e) {
      if (has_number(0)) set_number(block, 0, d);
      if (has_number(1)) set_number(block, 1, e);
      set_exponent(block, 128);
      dequantize_row(type_, block, x.data(), static_cast<int64_t>(values));
      float most = 0;
      for (const float value : x) most = std::max(most, std::fabs(value));
      return std::max(most, 1.0f);
    };
    const float e = has_number(1) ? size / largest(0, 1) : 0;
    const float d = size / largest(1, 0);
    largest(d, (quant_layout(type_).code == ScaleCode::None ? -0.9f : 0.6f) * e);
    set_exponent(block, 128 + static_cast<int>(std::floor(std::log2(d))));
  }

 private:
  DType type_;
  QuantSpots spots_;
};

}  // namespace reprise::test
