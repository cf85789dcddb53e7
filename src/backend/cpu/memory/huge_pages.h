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

// At least `bytes` at a multiple of kHugePage, from the system itself: in the heap, blocks that
// stay would leave holes between large ones that come and go. Null when there is none. What is
// behind the last whole huge page is on small ones: what isn't used isn't there. free_huge takes
// the same `bytes`.
#ifdef __linux__
inline std::byte* allocate_huge(size_t bytes) {
  const size_t size = round_up(bytes, kHugePage);
  void* const whole =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(whole);
  const size_t skip =
      round_up(reinterpret_cast<size_t>(begin), kHugePage) - reinterpret_cast<size_t>(begin);
  if (skip > 0) munmap(begin, skip);
  munmap(begin + skip + size, kHugePage - skip);  // never empty: skip < kHugePage
  madvise(begin + skip, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return begin + skip;
}
inline void free_huge(std::byte* memory, size_t bytes) {
  munmap(memory, round_up(bytes, kHugePage));
}
#else
inline std::byte* allocate_huge(size_t bytes) {
  return static_cast<std::byte*>(std::aligned_alloc(kHugePage, round_up(bytes, kHugePage)));
}
inline void free_huge(std::byte* memory, size_t) { std::free(memory); }
#endif

}  // namespace reprise::cpu
