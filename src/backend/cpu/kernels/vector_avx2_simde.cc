// The AVX2 vector kernels through simde, for tests on machines without AVX2.
#define SIMDE_ENABLE_NATIVE_ALIASES
#define REPRISE_VECTOR_SIMDE
#include <simde/x86/avx2.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include "backend/cpu/kernels/vector_tables.h"

namespace reprise::cpu {
namespace {

#include "backend/cpu/kernels/vector_lanes_avx2.inc"
// The kernels, on these lanes.
#include "backend/cpu/kernels/vector_impl.inc"
// (after vector_impl.inc, whose functions it uses)
#include "backend/cpu/kernels/vector_attend.inc"

}  // namespace

constinit const VectorKernels kVectorAvx2Simde = kVectorTable;

}  // namespace reprise::cpu
