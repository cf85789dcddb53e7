#include "backend/cpu/memory_pool.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/error.h"

namespace reprise::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMaxCached = size_t{128} << 20;

// Four classes per power of two: at most a quarter is wasted, and the tensors of one layer fit the
// blocks of the last.
size_t size_class(size_t bytes) {
  if (bytes <= 256) return 256;
  const size_t step = std::bit_floor(bytes - 1) / 4;
  return (bytes + step - 1) / step * step;
}

}  // namespace

MemoryPool::~MemoryPool() {
  for (auto& [size, blocks] : free_)
    for (std::byte* block : blocks) std::free(block);
}

std::shared_ptr<std::byte> MemoryPool::allocate(int64_t bytes, Account account) {
  REPRISE_CHECK(bytes >= 0);
  const size_t size = size_class(static_cast<size_t>(bytes));
  std::byte* block = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (auto it = free_.find(size); it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      cached_ -= size;
    }
    Usage& usage = usage_[static_cast<int>(account)];
    usage.now += bytes;
    usage.peak = std::max(usage.peak, usage.now);
  }
  if (!block) block = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
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
  if (cached_ + size > kMaxCached) {
    std::free(block);
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

}  // namespace reprise::cpu
