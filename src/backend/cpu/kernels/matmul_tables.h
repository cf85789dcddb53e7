// The matrix kernels of each instruction set, for kernel_tables.cc, tests and benchmarks. A table
// must only be called on a machine that has its instruction set; the *_simde ones, the same sources
// compiled through simde for any machine, run everywhere (slowly).
#pragma once

#include "backend/cpu/kernels/matmul.h"

namespace reprise::cpu {

MatmulKernels matmul_scalar();
#if REPRISE_CPU_X86                  // set by CMake
MatmulKernels matmul_avx2();         // needs AVX2, FMA, F16C
MatmulKernels matmul_avx512_vnni();  // needs AVX-512 F, BW, VL, DQ, VNNI
#endif
#if REPRISE_CPU_SIMDE
MatmulKernels matmul_avx2_simde();
MatmulKernels matmul_avx512_vnni_simde();
#endif

}  // namespace reprise::cpu
