#include "backend/cpu/memory/memory_pool.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "backend/cpu/memory/huge_pages.h"
#include "base/error.h"

namespace reprise::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMaxCached = size_t{512} << 20;
constexpr size_t kLarge = size_t{4} << 20;  // blocks from here on are the system's own pages
// Parts of slabs: smaller blocks would waste most of a huge page where a model is tiny, larger ones
// don't need it.
constexpr size_t kSmallestPart = size_t{16} << 10;
constexpr size_t kLargestPart = size_t{4} << 20;

// Four classes per power of two: at most a quarter is wasted, and the tensors of one layer fit the
// blocks of the last.
size_t size_class(size_t bytes) {
  if (bytes <= 256) return 256;
  const size_t step = std::bit_floor(bytes - 1) / 4;
  return (bytes + step - 1) / step * step;
}

// Not aligned_alloc: what glibc before 2.38 frees of it is a little too small for the next one of
// the same size (its bug 14581), so the heap grows by every large block that comes and goes.
std::byte* allocate_block(size_t size) {
  if (size >= kLarge) return allocate_huge(size);
  auto* const whole = static_cast<std::byte*>(std::malloc(size + kAlignment));
  if (!whole) return nullptr;
  const size_t skip = kAlignment - reinterpret_cast<size_t>(whole) % kAlignment;  // malloc: >= 16
  std::byte* const block = whole + skip;
  std::memcpy(block - sizeof(whole), &whole, sizeof(whole));
  return block;
}

void free_block(std::byte* block, size_t size) {
  if (size >= kLarge) return free_huge(block, size);
  std::byte* whole = nullptr;
  std::memcpy(&whole, block - sizeof(whole), sizeof(whole));
  std::free(whole);
}

bool is_part(size_t size, Account account) {
  return account == Account::Kv && size >= kSmallestPart && size <= kLargestPart;
}

}  // namespace

MemoryPool::~MemoryPool() {
  for (auto& [size, blocks] : free_)
    for (std::byte* block : blocks) free_block(block, size);
}

std::shared_ptr<std::byte> MemoryPool::allocate(int64_t bytes, Account account) {
  REPRISE_CHECK(bytes >= 0);
  const size_t size = size_class(static_cast<size_t>(bytes));
  std::byte* block = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (is_part(size, account)) {
      block = slabs_.take(size);
    } else if (auto it = free_.find(size); it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      cached_ -= size;
    }
    Usage& usage = usage_[static_cast<int>(account)];
    usage.now += bytes;
    usage.peak = std::max(usage.peak, usage.now);
  }
  if (!block && !is_part(size, account)) block = allocate_block(size);
  if (!block) {
    std::lock_guard lock(mutex_);
    usage_[static_cast<int>(account)].now -= bytes;
    fail("out of memory: {} bytes can't be had", bytes);
  }
  return {block, [pool = shared_from_this(), size, bytes, account](std::byte* p) {
            pool->give_back(p, size, bytes, account);
          }};
}

void MemoryPool::give_back(std::byte* block, size_t size, int64_t bytes, Account account) {
  std::lock_guard lock(mutex_);
  usage_[static_cast<int>(account)].now -= bytes;
  if (is_part(size, account)) return slabs_.give_back(block, size);
  if (cached_ + size > kMaxCached) {
    free_block(block, size);
    return;
  }
  free_[size].push_back(block);
  cached_ += size;
}

MemoryPool::Usage MemoryPool::usage(Account account) const {
  std::lock_guard lock(mutex_);
  return usage_[static_cast<int>(account)];
}

int64_t MemoryPool::cached_bytes() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(cached_);
}

int64_t MemoryPool::slab_bytes() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(slabs_.bytes());
}

int64_t MemoryPool::idle_slab_bytes() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(slabs_.idle_bytes());
}

}  // namespace reprise::cpu
