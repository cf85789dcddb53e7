// The AVX-512-VNNI matrix kernels through simde, for tests on machines without AVX-512-VNNI.
#define SIMDE_ENABLE_NATIVE_ALIASES
#define REPRISE_MATMUL_SIMDE
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

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

constinit const MatmulKernels kMatmulAvx512VnniSimde = kMatmulTable;

}  // namespace reprise::cpu
