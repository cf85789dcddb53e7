// The AVX2 matrix kernels through simde, for tests on machines without AVX2.
#define SIMDE_ENABLE_NATIVE_ALIASES
#define REPRISE_MATMUL_SIMDE
#include <simde/x86/avx2.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/cpu/kernels/matmul_tables.h"

namespace reprise::cpu {
namespace {

#include "backend/cpu/kernels/matmul_lanes_avx2.inc"
// The kernels, on these lanes.
#include "backend/cpu/kernels/matmul_impl.inc"

}  // namespace

constinit const MatmulKernels kMatmulAvx2Simde = kMatmulTable;

}  // namespace reprise::cpu
