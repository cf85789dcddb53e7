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

// The same, from the system itself: blocks that stay long would leave holes in the heap between
// large ones that come and go. `bytes` is a multiple of kHugePage.
#ifdef __linux__
inline std::byte* map_huge(size_t bytes) {
  void* const whole =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(whole);
  const size_t skip =
      round_up(reinterpret_cast<size_t>(begin), kHugePage) - reinterpret_cast<size_t>(begin);
  if (skip > 0) munmap(begin, skip);
  munmap(begin + skip + bytes, kHugePage - skip);  // never empty: skip < kHugePage
  madvise(begin + skip, bytes, MADV_HUGEPAGE);
  return begin + skip;
}
inline void unmap_huge(std::byte* memory, size_t bytes) { munmap(memory, bytes); }
#else
inline std::byte* map_huge(size_t bytes) { return allocate_huge(bytes); }
inline void unmap_huge(std::byte* memory, size_t) { std::free(memory); }
#endif

}  // namespace reprise::cpu
