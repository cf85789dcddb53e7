// Matrix kernels for AVX-512-VNNI.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/cpu/kernels/matmul_tables.h"

namespace reprise::cpu {
namespace {

#include "backend/cpu/kernels/matmul_lanes_avx512.inc"
// The kernels, on these lanes.
#include "backend/cpu/kernels/matmul_impl.inc"

}  // namespace

constinit const MatmulKernels kMatmulAvx512Vnni = kMatmulTable;

}  // namespace reprise::cpu
