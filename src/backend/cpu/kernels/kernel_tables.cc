// Puts the kernels of each instruction set together and chooses among them.
#include <cstdlib>
#include <functional>

#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/matmul_tables.h"
#include "backend/cpu/kernels/vector_tables.h"
#include "backend/factory.h"
#include "base/error.h"

namespace reprise::cpu {

const Kernels& scalar_kernels() {
  static const Kernels table = {"scalar", kMatmulScalar, kVectorScalar};
  return table;
}

#if REPRISE_CPU_X86
const Kernels* avx2_kernels() {
  static const Kernels table = {"avx2", kMatmulAvx2, kVectorAvx2};
  return &table;
}
const Kernels* avx512_vnni_kernels() {
  static const Kernels table = {"avx512-vnni", kMatmulAvx512Vnni, kVectorAvx512Vnni};
  return &table;
}
#else
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx512_vnni_kernels() { return nullptr; }
#endif

namespace {

std::vector<const Kernels*>& emulated() {
  static std::vector<const Kernels*> tables;
  return tables;
}

// __builtin_cpu_supports also asks whether the system saves the wide registers (XGETBV).
bool machine_has_avx2() {
#if REPRISE_CPU_X86
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
#else
  return false;
#endif
}

bool machine_has_avx512_vnni() {
#if REPRISE_CPU_X86
  return machine_has_avx2() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

struct Choice {
  IsaInfo info;
  const Kernels* kernels;  // null: not built
};

// Best first; the emulated ones last.
std::vector<Choice> choices() {
  const auto choice = [](const char* name, const Kernels* kernels, bool runs, bool emulated) {
    return Choice{{name, kernels != nullptr, kernels != nullptr && runs, emulated}, kernels};
  };
  std::vector<Choice> list = {
      choice("avx512-vnni", avx512_vnni_kernels(), machine_has_avx512_vnni(), false),
      choice("avx2", avx2_kernels(), machine_has_avx2(), false),
      choice("scalar", &scalar_kernels(), true, false)};
  for (const Kernels* table : emulated()) list.push_back(choice(table->name, table, true, true));
  return list;
}

}  // namespace

void add_emulated_kernels(const Kernels& table) { emulated().push_back(&table); }

const Kernels& choose_kernels(const std::string& name) {
  std::string wanted = name;
  std::string source = "instruction set";
  if (wanted.empty()) {
    if (const char* from_environment = std::getenv("REPRISE_ISA")) wanted = from_environment;
    source = "REPRISE_ISA";
  }
  std::string built, runs;
  for (const Choice& choice : choices()) {
    if (choice.info.runs && (wanted.empty() || wanted == choice.info.name)) return *choice.kernels;
    if (choice.info.built) built += (built.empty() ? "" : ", ") + choice.info.name;
    if (choice.info.runs) runs += (runs.empty() ? "" : ", ") + choice.info.name;
  }
  fail("{} '{}': expected one that this machine can run ({}); built: {}", source, wanted, runs,
       built);
}

}  // namespace reprise::cpu

namespace reprise {

std::vector<IsaInfo> cpu_instruction_sets() {
  std::vector<IsaInfo> list;
  for (cpu::Choice& choice : cpu::choices()) list.push_back(std::move(choice.info));
  return list;
}

}  // namespace reprise
