// What a machine can do at best, to hold kernels against: measured in the same run as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace reprise::bench {

// Bytes of the last-level cache; 32 MiB where the system doesn't tell.
int64_t last_level_cache_bytes();

// Reads bytes (a multiple of 4096) with nothing but loads and a cheap sum, in the widest vectors
// this machine has. Returns the sum so that nothing is left out.
uint64_t read_memory(const std::byte* data, int64_t bytes);

struct DotPeak {
  std::string name;     // the instructions
  int64_t ops_per_run;  // multiplications and additions
  void (*run)();        // on registers alone
};
// The integer dot products of an instruction set as this machine can issue them: "avx512-vnni" or
// "avx2". Empty where it can't run them.
std::vector<DotPeak> dot_peaks(const std::string& isa);

}  // namespace reprise::bench
