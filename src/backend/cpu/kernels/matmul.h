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

#include "base/quant/layout.h"

namespace reprise::cpu {

// Activations of m rows, quantized in blocks of 32 along k: value = scale * q, scale = max|x| /
// 127. Sums are those of the integers q, for weights with a zero or a minimum.
struct QuantizedRows {
  const int8_t* q;          // [m, k] in -127..127, k a multiple of 32
  const float* scale;       // [m, k / 32]
  const int32_t* sum;       // [m, k / 32]
  const int32_t* half_sum;  // [m, k / 16]
};

// Weights in panels: rows are grouped by `panel`, the last group filled up with zero rows, and for
// each group and each 32 values along k there are `bits` x [panel][4] bytes ("quads" of 4 bytes of
// every row) that hold the quants of the type (QuantLayout):
//   8 bits     quad j: values 4j .. 4j+3
//   4, 5, 6    quads 0 to 3: values 4j .. 4j+3 in the low halves, 16 + 4j .. in the high ones
//   2, 3       quads 0, 1:   values 4j .. 4j+3, and 8, 16, 24 more, in the pairs of bits from low
//              to high
//   3, 5       one more quad with the highest bits: of values 4i .. 4i+3 in bit i
//   6          two more quads with the high pairs of bits, in the order of 2 bits
// What scales them is one record for a group and a block of the file: its F16 numbers
// [numbers][panel], then the codes of its parts, [part][code_bytes][panel]. The file's bits, that
// is, in the order in which they are needed; 6-bit codes take a byte (of Q4_K's 144 bytes 4 more).
// The second number of a type with codes is negated, so that minima are added in every type.
struct PackedMatrix {
  DType type;
  int panel;  // rows per group: the kernel's width
  int64_t n, k;
  const std::byte* quants;   // [groups][k / 32][bits][panel][4], aligned to 64 bytes
  const std::byte* records;  // [groups][k / values]
};

struct MatmulKernels {
  int panel;  // the panel height packed_* need: 8 or 16; 0: any

  // q [m, k] and what belongs to it from x [m, k] (row stride ldx); k a multiple of 32. q is x *
  // (127 / max|x|), round half to even. A block whose max|x| is too small for 127 / max|x| (below
  // 3.8e-37) counts as zero; one that holds an infinity or NaN gets the scale NaN, so that it shows.
  void (*quantize)(const float* x, int64_t m, int64_t k, int64_t ldx, int8_t* q, float* scale,
                   int32_t* sum, int32_t* half_sum);

  // out[i, j] for rows i of x and columns j in [n0, n1), n0 a multiple of panel. out has row stride
  // ldo and is indexed from column 0.
  //
  // With d, m the scale and minimum of a part of the weights (16 or 32 values), q_w its levels, s
  // the activation block's scale, S the sum of the activations' integers over the part, the parts
  // in order of k, every operation rounded once:
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
