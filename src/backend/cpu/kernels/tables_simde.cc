// Adds the kernels through simde to the instruction sets of a program that links them: the tests.
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/matmul_tables.h"
#include "backend/cpu/kernels/vector_tables.h"

namespace reprise::cpu {
namespace {

[[maybe_unused]] const bool added = [] {
  static const Kernels avx2 = {"avx2-simde", kMatmulAvx2Simde, kVectorAvx2Simde};
  static const Kernels avx512 = {"avx512-vnni-simde", kMatmulAvx512VnniSimde,
                                 kVectorAvx512VnniSimde};
  add_emulated_kernels(avx2);
  add_emulated_kernels(avx512);
  return true;
}();

}  // namespace
}  // namespace reprise::cpu
