#include "text/tokenizer/bpe.h"

#include <bit>
#include <functional>
#include <queue>

#include "base/error.h"

namespace reprise {
namespace {

constexpr size_t kMaxCachedPieces = 1 << 14;  // cleared when full: at most some 3 MB
constexpr size_t kMaxCachedBytes = 48;        // of one piece

constexpr uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// Tokens of the piece as a linked list in one array; a token that was merged away has id -1.
struct Symbol {
  int32_t id;
  int32_t previous, next;  // -1 at the ends
};

struct Candidate {
  int32_t rank;
  int32_t position;  // of the left token
  int32_t result;
  // For std::priority_queue, which has the largest on top.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

MergeTable::MergeTable(const std::vector<BpeMerge>& merges) {
  const size_t capacity = std::bit_ceil(merges.size() + merges.size() / 2 + 16);
  shift_ = 64 - std::countr_zero(capacity);
  slots_.assign(capacity, Entry{0, -1, 0});
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& merge = merges[rank];
    const uint64_t pair = pair_key(merge.left, merge.right);
    slot(pair) = Entry{pair, static_cast<int32_t>(rank), merge.result};
  }
}

MergeTable::Entry& MergeTable::slot(uint64_t pair) {
  size_t i = (pair * 0x9E3779B97F4A7C15u) >> shift_;  // Fibonacci hashing
  while (slots_[i].rank >= 0 && slots_[i].pair != pair) i = (i + 1) & (slots_.size() - 1);
  return slots_[i];
}

const MergeTable::Entry* MergeTable::find(int32_t left, int32_t right) const {
  const Entry& entry = const_cast<MergeTable*>(this)->slot(pair_key(left, right));
  return entry.rank >= 0 ? &entry : nullptr;
}

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<BpeMerge>& merges,
                   int32_t unknown, bool fuse_unknown)
    : byte_ids_(byte_ids), merges_(merges), unknown_(unknown), fuse_unknown_(fuse_unknown) {}

void BpeModel::encode(std::string_view piece, std::vector<int32_t>& out) const {
  if (piece.size() > kMaxCachedBytes) return merge_bytes(piece, out);
  const std::string key(piece);
  {
    const std::lock_guard lock(cache_mutex_);
    if (const auto it = cache_.find(key); it != cache_.end()) {
      out.insert(out.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  const auto start = static_cast<std::ptrdiff_t>(out.size());
  merge_bytes(piece, out);
  const std::lock_guard lock(cache_mutex_);
  if (cache_.size() >= kMaxCachedPieces) cache_.clear();
  cache_.emplace(key, std::vector<int32_t>(out.begin() + start, out.end()));
}

void BpeModel::merge_bytes(std::string_view piece, std::vector<int32_t>& out) const {
  std::vector<int32_t> tokens;
  tokens.reserve(piece.size());
  bool last_unknown = false;
  for (const char c : piece) {
    const int32_t known = byte_ids_[static_cast<uint8_t>(c)];
    const bool skip = known < 0 && (unknown_ < 0 || (fuse_unknown_ && last_unknown));
    last_unknown = known < 0;
    if (!skip) tokens.push_back(known < 0 ? unknown_ : known);
  }
  merge(tokens, out);
}

void BpeModel::merge(const std::vector<int32_t>& tokens, std::vector<int32_t>& out) const {
  REPRISE_CHECK(tokens.size() < INT32_MAX);
  if (tokens.empty()) return;
  std::vector<Symbol> symbols;
  symbols.reserve(tokens.size());
  for (const int32_t token : tokens) {
    const auto i = static_cast<int32_t>(symbols.size());
    symbols.push_back({token, i - 1, i + 1});
  }
  symbols.back().next = -1;

  std::vector<Candidate> heap;
  heap.reserve(symbols.size());
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(heap));
  const auto offer = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const auto* entry = merges_.find(symbols[left].id, symbols[symbols[left].next].id);
    if (entry) queue.push({entry->rank, left, entry->result});
  };
  for (size_t i = 0; i < symbols.size(); ++i) offer(static_cast<int32_t>(i));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id < 0 || left.next < 0) continue;
    // The two may have changed since they were queued. What counts is that they still join to the
    // same token (as in `tokenizers`, where a pair split differently may keep its old rank).
    Symbol& right = symbols[left.next];
    const auto* entry = merges_.find(left.id, right.id);
    if (!entry || entry->result != best.result) continue;
    left.id = best.result;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    offer(left.previous);
    offer(best.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace reprise
