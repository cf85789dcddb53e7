// The vector kernels of each instruction set; those of simde are the same source through simde's
// portable intrinsics, for tests on machines that lack the instruction set.
#pragma once

#include "backend/cpu/kernels/vector_ops.h"

namespace reprise::cpu {

VectorKernels vector_scalar();
VectorKernels vector_avx2();
VectorKernels vector_avx512_vnni();
VectorKernels vector_avx2_simde();
VectorKernels vector_avx512_vnni_simde();

}  // namespace reprise::cpu
