// KV rows: the keys and values of one request at one depth, kept in pages of the backend's memory.
//
// A plan step names the row it reads and the row it writes; a request owns its rows. Keys carry
// explicit positions, so a row may have holes (a token that left early wrote nothing here), and
// what a query sees is decided by positions alone, never by how the work was sliced.
//
// Pages are shared by reference: between the rows of forks and of common prefixes, and between
// depths (Backend::alias_kv). Copy on write: an entry is written only to a page that one row alone
// holds (kv/append.h, the one place where rows grow), so copying a KvRow is a cheap snapshot.
// A row is used by one thread at a time; rows that share pages may be used by several.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/kv/budget.h"
#include "base/dtype.h"
#include "base/error.h"

namespace reprise {

constexpr int kKvPageTokens = 32;

// Width of one token's entry. k and v may differ in width (Phantom keeps [k, k*] and [v, y]).
struct KvSpec {
  int heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  DType type = DType::F32;  // how entries are stored: F32 or F16

  int64_t bytes_per_token() const { return int64_t{heads} * (k_dim + v_dim) * block_bytes(type); }
  int64_t bytes_per_page() const { return kKvPageTokens * bytes_per_token(); }
  bool operator==(const KvSpec&) const = default;
};

constexpr int64_t kv_pages(int64_t tokens) { return (tokens + kKvPageTokens - 1) / kKvPageTokens; }
// What `rows` KV rows of `tokens` entries each take: to be asked of KvBudget::reserve. A row that
// is cut back into a page it shares, or goes on from a shared partial page, takes one page more.
inline int64_t kv_bytes(const KvSpec& spec, int64_t rows, int64_t tokens) {
  return rows * kv_pages(tokens) * spec.bytes_per_page();
}

// Memory for kKvPageTokens entries and their positions; each backend derives its own. Goes back to
// the backend's pool with the last reference.
class KvPage {
 public:
  explicit KvPage(const KvSpec& page_spec) : spec(page_spec) {}
  virtual ~KvPage() = default;
  KvPage(const KvPage&) = delete;
  KvPage& operator=(const KvPage&) = delete;

  const KvSpec spec;
  // Of the entries. Kept with them and not per row: a fork of many rows copies no positions. How
  // many count is the row's business; those behind are anything.
  std::array<int32_t, kKvPageTokens> positions{};
  KvCharge charge;  // what it counts for in a budget; returned when the memory is
};

struct KvRow {
  KvSpec spec;
  std::vector<std::shared_ptr<KvPage>> pages;
  int64_t entries = 0;                 // the filled-to mark
  std::shared_ptr<KvAccount> account;  // pages made for this row are drawn from it; null: uncounted

  int64_t filled() const { return entries; }
  // Positions ascend strictly with the index. i in [0, filled).
  int32_t position(int64_t i) const {
    return pages[static_cast<size_t>(i / kKvPageTokens)]
        ->positions[static_cast<size_t>(i % kKvPageTokens)];
  }
  int32_t last_position() const { return position(entries - 1); }  // filled > 0
  // Index of the first entry whose position is >= `position`; filled() where there is none.
  int64_t lower_bound(int64_t position) const;
  // Forgets all entries from index `count` on, and their pages. What was appended is undone by
  // truncating to the earlier filled(), whether or not a shared page was copied on the way.
  void truncate(int64_t count) {
    REPRISE_CHECK(count >= 0 && count <= entries, "{} of {} entries", count, entries);
    entries = count;
    pages.resize(static_cast<size_t>(kv_pages(count)));
  }
};

// Some consecutive rows of an attention call that belong to one request at one depth.
struct AttentionSegment {
  int64_t first_row = 0;
  int64_t rows = 0;
  std::span<const int32_t> positions;  // [rows], strictly ascending
  // Serving: the new k, v are appended to `write` (null: nothing is kept), then the queries attend
  // to `read`, which is usually the same row. Positions appended must lie after the row's last.
  KvRow* write = nullptr;
  const KvRow* read = nullptr;
  // Functional (read and write null), for training: the queries attend to the k, v of their own
  // segment and, where prefix >= 0, to those of that earlier segment of the call as well.
  int prefix = -1;
  // Serving, for loops that share one row's past: the queries attend to the entries of `read`
  // (null: none) at positions before the segment's first, and causally to the segment's own k, v,
  // rounded as the rows store them, whether `write` keeps them or not. With read == write that is
  // what ordinary attention gives.
  bool own_entries = false;

  // What own entries are rounded to.
  DType own_type() const { return read ? read->spec.type : write ? write->spec.type : DType::F32; }
};

// That segments cover [0, rows) in order and their positions ascend: a bug of ours otherwise.
void check_segments(std::span<const AttentionSegment> segments, int64_t rows);

}  // namespace reprise
