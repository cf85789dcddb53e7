// KV rows: the keys and values of one request at one depth, kept in pages of the backend's memory.
//
// A plan step names the row it reads and the row it writes; a request owns its rows. Keys carry
// explicit positions, so a row may have holes (a token that left early wrote nothing here), and
// what a query sees is decided by positions alone, never by how the work was sliced.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

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
  bool operator==(const KvSpec&) const = default;
};

// Memory for kKvPageTokens entries; each backend derives its own. Goes back to the backend's pool
// with the last reference, so pages can be shared between rows (common prefixes).
class KvPage {
 public:
  virtual ~KvPage() = default;
};

struct KvRow {
  KvSpec spec;
  std::vector<std::shared_ptr<KvPage>> pages;
  // Position of each entry, strictly ascending. Its size is the row's filled-to mark.
  std::vector<int32_t> positions;

  int64_t filled() const { return static_cast<int64_t>(positions.size()); }
  // Forgets all entries from index `count` on, and their pages.
  void truncate(int64_t count) {
    REPRISE_CHECK(count >= 0 && count <= filled());
    positions.resize(static_cast<size_t>(count));
    pages.resize(static_cast<size_t>((count + kKvPageTokens - 1) / kKvPageTokens));
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
};

}  // namespace reprise
