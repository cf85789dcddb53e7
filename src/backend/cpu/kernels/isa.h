// Which kernels run: the choice among the instruction sets that are built and that this machine
// has.
#pragma once

#include <string>

#include "backend/cpu/kernels/kernels.h"

namespace reprise::cpu {

// By name; empty: the environment variable REPRISE_ISA, where that is empty too the best native
// one. Throws Error that lists what is built and what this machine can run.
const Kernels& choose_kernels(const std::string& name);

}  // namespace reprise::cpu
