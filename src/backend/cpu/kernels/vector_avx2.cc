// Vector kernels for AVX2 + FMA + F16C.
#include <immintrin.h>

#include "backend/cpu/kernels/vector_tables.h"

namespace reprise::cpu {
namespace {

#include "backend/cpu/kernels/vector_lanes_avx2.inc"
// The kernels, on these lanes.
#include "backend/cpu/kernels/vector_impl.inc"
// (after vector_impl.inc, whose functions it uses)
#include "backend/cpu/kernels/vector_attend.inc"

}  // namespace

constinit const VectorKernels kVectorAvx2 = kVectorTable;

}  // namespace reprise::cpu
