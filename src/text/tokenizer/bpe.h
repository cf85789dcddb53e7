// Byte-pair encoding of one pre-tokenized piece: starting from single bytes, the neighbouring pair
// with the best (lowest) merge rank is joined until none is left, the leftmost first among equals.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace reprise {

struct BpeMerge {
  int32_t left, right, result;  // token ids
};

// (left, right) -> rank and result; open addressing, fixed after construction.
class MergeTable {
 public:
  // merges[i] has rank i. Where a pair occurs twice, the later one counts.
  explicit MergeTable(const std::vector<BpeMerge>& merges);

  struct Entry {
    uint64_t pair;
    int32_t rank;  // -1: empty slot
    int32_t result;
  };
  const Entry* find(int32_t left, int32_t right) const;

 private:
  Entry& slot(uint64_t pair);
  std::vector<Entry> slots_;  // a power of two, at most two thirds full
  int shift_ = 0;
};

class BpeModel {
 public:
  // byte_ids: the token of each single byte, -1 = none. Such a byte becomes `unknown` (neighbours
  // only once when fuse_unknown), or nothing when `unknown` is -1.
  BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<BpeMerge>& merges,
           int32_t unknown, bool fuse_unknown);

  // Appends the ids of one piece. O(n log n). Thread-safe; short pieces are remembered in a cache
  // whose size is bounded.
  void encode(std::string_view piece, std::vector<int32_t>& out) const;
  // Merges tokens instead of bytes; nothing is remembered.
  void merge(const std::vector<int32_t>& tokens, std::vector<int32_t>& out) const;

 private:
  void merge_bytes(std::string_view piece, std::vector<int32_t>& out) const;

  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
  int32_t unknown_;
  bool fuse_unknown_;
  mutable std::mutex cache_mutex_;
  mutable std::unordered_map<std::string, std::vector<int32_t>> cache_;
};

}  // namespace reprise
