// Turns the segments of a functional attention call (training: no cache) into a few batched jobs.
//
// Segments come in two kinds. One without a prefix is a causal sequence of its own. Those that
// share a prefix form a group: their queries attend to the prefix and to their own segment.
// Sequences, and groups, of similar size are padded to one size and computed as one batch. A job
// names its query and key rows by index, so segments may lie in any order and trees may interleave.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/kv.h"
#include "backend/torch/autograd_ops.h"

namespace reprise {

struct AttentionJob {
  int64_t batch = 0;
  int64_t queries = 0;  // per batch entry, padding included
  int64_t keys = 0;
  bool same_rows = false;  // keys are the rows of the queries
  int64_t first_row = -1;  // >= 0: query rows are [first_row, first_row + batch * queries), no pads
  RowIndex query_rows;     // [batch * queries], -1 = padding; unset where first_row >= 0
  RowIndex key_rows;       // [batch * keys]; unset where same_rows
  bool causal = false;     // without a mask: query i sees keys 0..i
  at::Tensor mask;         // [batch or 1, 1, queries, keys]: 0 or -inf; undefined when not needed
};

struct AttentionLayout {
  int64_t rows = 0;
  std::vector<AttentionJob> jobs;
  // Rows of the jobs' outputs, put behind each other, in the order of the call; unset where the
  // order is already right.
  bool in_order = false;
  RowIndex result_rows;  // [rows]

  // What it was made from.
  int64_t window = 0;
  std::vector<int32_t> key;
};

// Identifies segments and all that decides their masks.
std::vector<int32_t> layout_key(std::span<const AttentionSegment> segments);

// The segments cover [0, rows) in order and are all functional (checked).
std::shared_ptr<const AttentionLayout> make_attention_layout(
    std::span<const AttentionSegment> segments, int64_t window);

}  // namespace reprise
