// The matrix kernels of each instruction set, for kernel_tables.cc, tests and benchmarks. A table
// must only be called on a machine that has its instruction set; the *Simde ones, the same sources
// compiled through simde for any machine, run everywhere (slowly).
//
// Constants, not functions that return a table: such a function is compiled for its instruction set
// like the kernels beside it, and every machine would call it.
#pragma once

#include "backend/cpu/kernels/matmul.h"

namespace reprise::cpu {

extern const MatmulKernels kMatmulScalar;
#if REPRISE_CPU_X86                            // set by CMake
extern const MatmulKernels kMatmulAvx2;        // needs AVX2, FMA, F16C
extern const MatmulKernels kMatmulAvx512Vnni;  // needs AVX-512 F, BW, VL, DQ, VNNI
#endif
#if REPRISE_CPU_SIMDE
extern const MatmulKernels kMatmulAvx2Simde;
extern const MatmulKernels kMatmulAvx512VnniSimde;
#endif

}  // namespace reprise::cpu
