// Memory of the cpu backend: 64-byte aligned blocks that go back at their last use and are kept for
// the next one of the same size, up to a bound. Blocks for KV are parts of slabs (slabs.h) on huge
// pages, which decode streams through. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "backend/cpu/memory/slabs.h"

namespace reprise::cpu {

enum class Account { Workspace, Kv };

class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  struct Usage {
    int64_t now = 0;   // bytes asked for and not yet given back
    int64_t peak = 0;  // most at any time
  };

  static std::shared_ptr<MemoryPool> make() { return std::shared_ptr<MemoryPool>(new MemoryPool); }
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // Uninitialized. The block keeps the pool alive. Throws Error when the system has no more memory.
  std::shared_ptr<std::byte> allocate(int64_t bytes, Account account);

  Usage usage(Account account) const;
  int64_t cached_bytes() const;  // given back and kept, slabs not counted
  int64_t slab_bytes() const;    // of all slabs, in use or not
  int64_t idle_slab_bytes() const;

 private:
  MemoryPool() = default;
  void give_back(std::byte* block, size_t size, int64_t bytes, Account account);

  mutable std::mutex mutex_;
  std::unordered_map<size_t, std::vector<std::byte*>> free_;  // by size class
  size_t cached_ = 0;
  Slabs slabs_;
  Usage usage_[2];
};

}  // namespace reprise::cpu
