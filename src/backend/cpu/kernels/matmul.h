// Matrix products of the cpu backend: activations x [m, k] times weights w [n, k], both along k.
//
// Float weights (F32, BF16, F16) stay row-major where they are (mapped files included; unaligned).
// Quantized weights are repacked once into panels of `panel` rows (see PackedMatrix, packing.h) so
// that one vector holds the same k for several outputs and no horizontal sum is needed.
//
// The bits of a result depend on its own row of x, its own row of w and k alone: not on m, not on
// the position of the row, not on how [0, n) is cut. quantize, packed_int8 and packed_f32 give the
// same bits in every table too (where F16 scales and x are finite); dense_f32 adds in an order that
// depends on the width of the vectors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace reprise::cpu {

// Activations of m rows, quantized in blocks of 32 along k: value = scale * q, scale = max|x| /
// 127. sum is the integer sum of q over the block, for weights with an offset.
struct QuantizedRows {
  const int8_t* q;     // [m, k] in -127..127, k a multiple of 32
  const float* scale;  // [m, k / 32]
  const int32_t* sum;  // [m, k / 32]
};

// How a block of 32 values of a file is laid out where kernels read the type (types.def): first
// `scales` F16 numbers, the scale and, where there are two, the minimum; then `quads` groups of 4
// bytes of quants.
struct PanelLayout {
  int scales = 0;
  int quads = 0;  // 0: no kernels read the type
};
template <DType kType>
inline constexpr PanelLayout kPanelLayout = {};
#define REPRISE_QUANT(name, values, bytes, gguf, scales, quads) \
  template <>                                                   \
  inline constexpr PanelLayout kPanelLayout<DType::name> = {scales, quads};
#include "base/quant/types.def"

// Weights in panels: rows are grouped by `panel`, the last group filled up with zero rows. For each
// group and each block of 32 values along k there are `quads` x [panel][4] bytes: quad j of every
// row, as it is in the file. Which values it holds is the type's: 4j .. 4j+3 (Q8_0), or these in
// the low nibbles and 16 + 4j .. 16 + 4j+3 in the high ones (Q4_0, Q4_1). Beside them, as F16 like
// in the file (fewer bytes to stream), the block's scales [panel], then its minima [panel].
struct PackedMatrix {
  DType type;  // one with a PanelLayout
  int panel;   // rows per group: the kernel's width
  int64_t n, k;
  const std::byte* quants;  // [groups][k / 32][quads][panel][4], aligned to 64 bytes
  const uint16_t* scales;   // F16 [groups][k / 32][scales][panel]
};

struct MatmulKernels {
  int panel;  // the panel height packed_* need: 8 or 16; 0: any

  // q [m, k], scale, sum from x [m, k] (row stride ldx); k a multiple of 32. q is x * (127 /
  // max|x|), round half to even. A block whose max|x| is too small for 127 / max|x| (below 3.8e-37)
  // counts as zero; one that holds an infinity or NaN gets the scale NaN, so that it shows.
  void (*quantize)(const float* x, int64_t m, int64_t k, int64_t ldx, int8_t* q, float* scale,
                   int32_t* sum);

  // out[i, j] for rows i of x and columns j in [n0, n1), n0 a multiple of panel. out has row stride
  // ldo and is indexed from column 0.
  //
  // With d, m the weight block's scale and minimum, q_w its integers (QuantCode::split), s the
  // activation block's scale, S its sum, the blocks in order of k, every operation rounded once:
  //   dot = sum of q_w q_x, exact
  //   t   = d * dot                  with a minimum:  t = fma(d, dot, m * S)
  //   out = fma(s, t, out)           starting from 0
  void (*packed_int8)(const QuantizedRows& x, int64_t m, const PackedMatrix& w, int64_t n0,
                      int64_t n1, float* out, int64_t ldo);
  // out = fma(w, x, out) in order of k, starting from 0, with w the weight's value as a float.
  void (*packed_f32)(const float* x, int64_t m, int64_t ldx, const PackedMatrix& w, int64_t n0,
                     int64_t n1, float* out, int64_t ldo);
  // w row-major [n, k] of F32, BF16 or F16, unaligned. Any n0. Each lane of a vector adds every
  // lanes-th product, then the lanes are added as a tree.
  void (*dense_f32)(const float* x, int64_t m, int64_t ldx, const std::byte* w, DType type,
                    int64_t n0, int64_t n1, int64_t k, float* out, int64_t ldo);
};

}  // namespace reprise::cpu
