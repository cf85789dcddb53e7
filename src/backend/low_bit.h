// Frozen base weights in few bits, for training adapters on top of them (QLoRA, arXiv 2305.14314).
//
// NF4: 16 levels at the quantiles of a normal distribution (the paper's appendix E), blocks of 64
// values in row-major order, each with its largest magnitude. The value with the even index is the
// high half of a byte. Optionally the blocks' magnitudes are quantized again ("double
// quantization"): their mean is taken off, then blocks of 256 are held in 8 bits by the dynamic map
// of arXiv 2110.02861. Int8: symmetric, one scale a row (the storage of LLM.int8(), arXiv
// 2208.07339, without its outlier columns, which belong to activations). The same bits as
// bitsandbytes makes from the same F32 values, but for scales in 8 bits close to the middle of two
// codes, where its CPU kernel sometimes takes the farther one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace reprise {

enum class LowBitKind { Nf4, Nf4Double, Int8 };

// The 16 levels of NF4 and the 256 of the signed dynamic map, ascending.
const std::array<float, 16>& nf4_levels();
const std::array<float, 256>& dynamic_map();

struct LowBitWeight {
  static constexpr int64_t kBlock = 64;
  static constexpr int64_t kOuterBlock = 256;

  LowBitKind kind = LowBitKind::Nf4;
  int64_t rows = 0, cols = 0;
  std::vector<uint8_t> codes;        // NF4: two values a byte; int8: one, as two's complement
  std::vector<float> scales;         // Nf4: a block; Int8: a row; Nf4Double: an outer block
  std::vector<uint8_t> scale_codes;  // Nf4Double: a block
  float offset = 0;                  // Nf4Double

  int64_t bytes() const {
    return static_cast<int64_t>(codes.size() + scale_codes.size() + 4 * scales.size());
  }
  // Values [begin, end) of the row-major matrix.
  void dequantize(int64_t begin, int64_t end, float* out) const;
  // The scale of an NF4 block, itself dequantized where it is kept in few bits.
  float block_scale(int64_t block) const;
};

// values [rows, cols], row-major.
LowBitWeight quantize_low_bit(std::span<const float> values, int64_t rows, int64_t cols,
                              LowBitKind kind);

}  // namespace reprise
