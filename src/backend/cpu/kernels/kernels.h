// The table of inner loops of one instruction set. One translation unit per instruction set fills
// one table; the backend picks a table at run time and never names an instruction set elsewhere.
//
// Determinism, which every table must keep: the order in which a result's terms are added depends
// only on the shapes (k, head width, number of keys), never on how many rows or columns a call has,
// so that a row gives the same bits alone or in a batch.
//
// A kernel's translation unit includes no header with inline functions that others use too (the
// linker might keep the copy compiled for a newer machine) and keeps its own in an unnamed
// namespace.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/matmul.h"
#include "backend/cpu/kernels/vector_ops.h"

namespace reprise::cpu {

struct Kernels {
  const char* name;
  MatmulKernels matmul;
  VectorKernels vector;
};

const Kernels& scalar_kernels();  // the oracle: plain loops, always there
// Null where they are not compiled in. Whether this machine can run one is the dispatcher's
// business.
const Kernels* avx2_kernels();
const Kernels* avx512_vnni_kernels();

// Adds a table that emulates an instruction set, for tests; its name ends in "-simde". Before main:
// nothing locks the list. The table must stay.
void add_emulated_kernels(const Kernels& table);

}  // namespace reprise::cpu
