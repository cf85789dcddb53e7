#include "backend/cpu/memory/slabs.h"

#include <algorithm>

#include "backend/cpu/memory/huge_pages.h"

namespace reprise::cpu {
namespace {

// At most an eighth is left over.
size_t slab_size(size_t part) { return round_up(std::max(kHugePage, 8 * part), kHugePage); }

}  // namespace

Slabs::~Slabs() {
  for (const auto& [memory, slab] : slabs_) free_huge(memory, slab.bytes);
  for (const auto& [bytes, list] : idle_)
    for (std::byte* memory : list) free_huge(memory, bytes);
}

// A slab without a part in use, for parts of this size: an idle one of whatever size its parts had,
// or a new one.
Slabs::List::iterator Slabs::open(size_t size) {
  Slab slab = {.bytes = slab_size(size), .parts = slab_size(size) / size, .free = {}};
  slab.free.reserve(slab.parts);
  std::vector<std::byte*>& idle = idle_[slab.bytes];
  std::byte* memory = nullptr;
  if (!idle.empty()) {
    memory = idle.back();
    idle.pop_back();
    idle_bytes_ -= slab.bytes;
  } else {
    memory = allocate_huge(slab.bytes);
    if (!memory) return slabs_.end();
  }
  // The first part is taken first: what comes after it isn't touched before it is needed.
  for (size_t i = slab.parts; i-- > 0;) slab.free.push_back(memory + i * size);
  used_ += slab.bytes;
  recent_ = std::max(recent_, used_);
  open_[size].insert(memory);
  return slabs_.emplace(memory, std::move(slab)).first;
}

std::byte* Slabs::take(size_t size) {
  std::set<std::byte*>& open_slabs = open_[size];
  const auto slab = open_slabs.empty() ? open(size) : slabs_.find(*open_slabs.begin());
  if (slab == slabs_.end()) return nullptr;
  std::vector<std::byte*>& free = slab->second.free;
  std::byte* part = free.back();
  free.pop_back();
  if (free.empty()) open_slabs.erase(slab->first);
  return part;
}

void Slabs::give_back(std::byte* part, size_t size) {
  const auto slab = std::prev(slabs_.upper_bound(part));
  const auto [memory, bytes] = std::pair(slab->first, slab->second.bytes);
  std::vector<std::byte*>& free = slab->second.free;
  free.push_back(part);  // never more than was reserved
  if (free.size() == 1) open_[size].insert(memory);
  if (free.size() < slab->second.parts) return;
  open_[size].erase(memory);
  slabs_.erase(slab);
  used_ -= bytes;
  idle_[bytes].push_back(memory);
  idle_bytes_ += bytes;
  // A peak is forgotten while 32 times its size came and went.
  recent_ = std::max(used_ + bytes, recent_ - std::min(recent_, bytes / 32));
  trim();
}

size_t Slabs::idle_bound() const { return std::clamp(recent_ / 2, kLeastIdle, kMostIdle); }

void Slabs::trim() {
  while (idle_bytes_ > idle_bound()) {
    const auto largest = std::prev(idle_.end());
    if (largest->second.empty()) {
      idle_.erase(largest);
      continue;
    }
    free_huge(largest->second.back(), largest->first);
    largest->second.pop_back();
    idle_bytes_ -= largest->first;
  }
}

}  // namespace reprise::cpu
