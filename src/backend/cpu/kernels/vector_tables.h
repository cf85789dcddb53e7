// The vector kernels of each instruction set; those of simde are the same source through simde's
// portable intrinsics, for tests on machines that lack the instruction set. Constants for the reason that matmul_tables.h
// gives.
#pragma once

#include "backend/cpu/kernels/vector_ops.h"

namespace reprise::cpu {

extern const VectorKernels kVectorScalar;
extern const VectorKernels kVectorAvx2;
extern const VectorKernels kVectorAvx512Vnni;
extern const VectorKernels kVectorAvx2Simde;
extern const VectorKernels kVectorAvx512VnniSimde;

}  // namespace reprise::cpu
