// Vector kernels for AVX-512 (F, BW, VL, DQ).
#include <immintrin.h>

#include "backend/cpu/kernels/vector_tables.h"

namespace reprise::cpu {
namespace {

#include "backend/cpu/kernels/vector_lanes_avx512.inc"
// The kernels, on these lanes.
#include "backend/cpu/kernels/vector_impl.inc"
// (after vector_impl.inc, whose functions it uses)
#include "backend/cpu/kernels/vector_attend.inc"

}  // namespace

constinit const VectorKernels kVectorAvx512Vnni = kVectorTable;

}  // namespace reprise::cpu
