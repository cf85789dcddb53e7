// Memory that is streamed through: the system is asked for huge pages, since translating addresses
// of 4 KiB pages costs a few percent of the time.
#pragma once

#include <cstddef>
#include <cstdlib>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace reprise::cpu {

constexpr size_t kHugePage = size_t{2} << 20;

constexpr size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// At least `bytes`, at a multiple of kHugePage; std::free takes it back. Null when there is none.
inline std::byte* allocate_huge(size_t bytes) {
  const size_t size = round_up(bytes, kHugePage);
  void* memory = std::aligned_alloc(kHugePage, size);
#ifdef __linux__
  // The last, partial page stays small: what isn't used isn't there.
  if (memory) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return static_cast<std::byte*>(memory);
}

}  // namespace reprise::cpu
