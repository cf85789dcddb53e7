// Slabs: large pieces of memory on huge pages, each cut into parts of one size. Parts are taken
// from the lowest slab that has one, so that the others run empty; a slab whose parts are all free
// is idle, and idle slabs go back to the system as soon as they are more than a bound.
//
// The bound: half of the most that was in use lately, kLeastIdle to kMostIdle. A TroL prompt's
// second-pass rows, half of its KV, go at the prompt's end and are wanted again by the next prompt;
// what a rare long request leaves behind is forgotten little by little as slabs come and go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

namespace reprise::cpu {

class Slabs {
 public:
  static constexpr size_t kLeastIdle = size_t{16} << 20;
  static constexpr size_t kMostIdle = size_t{512} << 20;

  Slabs() = default;
  ~Slabs();
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  // Uninitialized, at a multiple of 64 bytes; size is one too. Null when the system has no more
  // memory.
  std::byte* take(size_t size);
  void give_back(std::byte* part, size_t size);

  size_t bytes() const { return used_ + idle_bytes_; }  // of all slabs
  size_t idle_bytes() const { return idle_bytes_; }     // of those without a part in use

 private:
  struct Slab {
    size_t bytes;
    size_t parts;
    std::vector<std::byte*> free;  // the next one last
  };
  using List = std::map<std::byte*, Slab>;  // by address

  List::iterator open(size_t size);
  size_t idle_bound() const;
  // Gives idle slabs back until they fit the bound, the largest first.
  void trim();

  List slabs_;                                             // with a part in use
  std::unordered_map<size_t, std::set<std::byte*>> open_;  // of those with a free part, by its size
  std::map<size_t, std::vector<std::byte*>> idle_;         // by the slab's own size
  size_t used_ = 0;                                        // bytes of slabs_
  size_t idle_bytes_ = 0;
  size_t recent_ = 0;  // the most in use lately
};

}  // namespace reprise::cpu
