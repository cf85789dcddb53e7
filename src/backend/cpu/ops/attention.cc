// Attention: which keys each query sees, and how queries are grouped into kernel calls. A kernel
// call takes the queries of some rows and of all heads that share one KV head, so that keys and
// values are loaded once for all of them.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"

namespace reprise::cpu {
namespace {

static_assert(kKvPageTokens == kAttendBlock, "the keys of a page are a block of the kernels");

// Bounds of a kernel call: scores that fit a second-level cache, and queries enough to pay for
// passing over the keys.
constexpr int64_t kCallScores = 96 << 10;
constexpr int64_t kCallQueries = 96;

// Scratch of the current thread; grows to the largest call and stays.
float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  return memory.data();
}

int64_t scratch_floats(int64_t queries, int64_t span, int64_t k_dim, int64_t v_dim) {
  return queries * (span + kAttendPad) + kAttendBlock * std::max(k_dim, v_dim);
}

// Rows per call, where `heads` queries of a row go together and see up to `keys` keys.
int64_t rows_per_call(int64_t heads, int64_t keys) {
  const int64_t queries = std::min(kCallQueries, kCallScores / std::max<int64_t>(1, keys));
  return std::max<int64_t>(1, queries / heads);
}

// The positions of the keys that a segment's queries may see, in the order of the runs: entries of
// a KV row, then rows of the call.
struct KeyPositions {
  const KvRow* row = nullptr;
  int64_t entries = 0;  // of the row, from its first on
  std::span<const int32_t> prefix, own;

  int64_t size() const { return entries + static_cast<int64_t>(prefix.size() + own.size()); }
  int32_t operator[](int64_t i) const {
    if (i < entries) return row->position(i);
    const auto at = static_cast<size_t>(i - entries);
    return at < prefix.size() ? prefix[at] : own[at - prefix.size()];
  }
  // The first from `from` on that isn't below `position`, or size(). As a rule one of the next few.
  int64_t lower_bound(int64_t position, int64_t from) const {
    for (int64_t step = 1;; step *= 2) {
      int64_t end = std::min(size(), from + step);
      if (end < size() && (*this)[end - 1] < position) {
        from = end;
        continue;
      }
      while (from < end) {
        const int64_t middle = from + (end - from) / 2;
        if ((*this)[middle] < position)
          from = middle + 1;
        else
          end = middle;
      }
      return from;
    }
  }
};

// Keys [begin, end) of a segment's.
struct Visible {
  int64_t begin;
  int64_t end;
};

// For each query; both ends ascend with its position.
std::vector<Visible> visible(const KeyPositions& keys, std::span<const int32_t> queries,
                             int64_t window) {
  std::vector<Visible> rows;
  rows.reserve(queries.size());
  const int64_t size = keys.size();
  Visible seen = {0, 0};
  for (const int32_t own : queries) {
    if (size > 0 && keys[size - 1] <= own)
      seen.end = size;  // decode
    else
      seen.end = keys.lower_bound(int64_t{own} + 1, seen.end);
    if (window > 0) seen.begin = keys.lower_bound(int64_t{own} - window + 1, seen.begin);
    REPRISE_CHECK(seen.begin < seen.end, "the query at position {} sees no key", own);
    rows.push_back(seen);
  }
  return rows;
}

// A segment with what its queries see.
struct Work {
  const AttentionSegment* segment;
  const AttentionSegment* prefix = nullptr;  // functional only
  int64_t entries = 0;                       // of the row that is read, those that count
  bool own = false;                          // the segment's own k, v are keys behind them
  std::vector<Visible> rows;
  int64_t keys = 0;  // all of them
  int64_t rows_per_call = 1;
  int64_t first_task = 0;
};

// After all new entries were appended: those of later positions are not seen.
Work plan(std::span<const AttentionSegment> segments, size_t index, const AttentionSpec& spec) {
  const AttentionSegment& segment = segments[index];
  Work work = {.segment = &segment};
  KeyPositions keys = {.row = segment.read};
  if (segment.read)
    keys.entries = segment.own_entries ? segment.read->lower_bound(segment.positions[0])
                                       : segment.read->filled();
  work.own = segment.own_entries || !segment.read;
  if (work.own) keys.own = segment.positions;
  if (!segment.read && segment.prefix >= 0) {
    REPRISE_CHECK(static_cast<size_t>(segment.prefix) < index, "prefix {} of segment {}",
                  segment.prefix, index);
    work.prefix = &segments[static_cast<size_t>(segment.prefix)];
    keys.prefix = work.prefix->positions;
    REPRISE_CHECK(keys.prefix.empty() || keys.prefix.back() < segment.positions[0],
                  "a segment's positions don't lie behind its prefix");
  }
  work.rows = visible(keys, segment.positions, spec.window);
  work.entries = keys.entries;
  work.keys = keys.size();
  return work;
}

// The runs that hold entries [begin, end) for one KV head; returns the number of the first run's
// first key.
int64_t page_runs(const KvRow& row, int64_t head, int64_t begin, int64_t end,
                  std::vector<KvRun>* runs) {
  const int64_t first = begin / kKvPageTokens;
  for (int64_t page = first; page * kKvPageTokens < end; ++page) {
    const CpuKvPage& memory = page_of(row, page);
    runs->push_back(
        {.k = memory.key(head, 0),
         .v = memory.value(head, 0),
         .count = std::min<int64_t>(kKvPageTokens, end - page * kKvPageTokens),
         .v_stride = row.spec.v_dim,
         .layout = row.spec.type == DType::F16 ? KvLayout::PageF16 : KvLayout::PageF32});
  }
  return first * kKvPageTokens;
}

}  // namespace

Tensor CpuBackend::attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k,
                             const Tensor& v, std::span<const AttentionSegment> segments) {
  REPRISE_CHECK(q.rank() == 3 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0);
  const int64_t rows = q.dim(0), heads = spec.heads, kv_heads = spec.kv_heads;
  const int64_t k_dim = spec.k_dim, v_dim = spec.v_dim;
  REPRISE_CHECK(q.shape() == (Shape{rows, heads, k_dim}) &&
                    k.shape() == (Shape{rows, kv_heads, k_dim}) &&
                    v.shape() == (Shape{rows, kv_heads, v_dim}),
                "q {}, k {}, v {}", shape_string(q.shape()), shape_string(k.shape()),
                shape_string(v.shape()));
  check_segments(segments, rows);
  for (const AttentionSegment& segment : segments) {
    REPRISE_CHECK(segment.read || segment.own_entries || !segment.write,
                  "a segment writes a KV row but reads none");
    REPRISE_CHECK(!segment.own_entries || segment.prefix < 0,
                  "a segment of a KV row with a prefix of the call");
    if (!segment.read) continue;
    const KvSpec& read = segment.read->spec;
    REPRISE_CHECK(read.heads == kv_heads && read.k_dim == k_dim && read.v_dim == v_dim,
                  "a KV row of {} heads, {} + {} wide for attention of {} heads, {} + {}",
                  read.heads, read.k_dim, read.v_dim, kv_heads, k_dim, v_dim);
  }
  KvAppend append(*this);
  store_kv(append, k, v, segments);
  const float* queries = floats(q);
  const float* keys = floats(k);
  const float* values = floats(v);
  const std::pair<Tensor, Tensor> rounded = rounded_kv(k, v, segments);

  const int64_t group = heads / kv_heads;
  std::vector<Work> list;
  int64_t tasks = 0, steps = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].rows == 0) continue;
    Work work = plan(segments, i, spec);
    work.rows_per_call = rows_per_call(group, work.keys);
    work.first_task = tasks;
    tasks += (segments[i].rows + work.rows_per_call - 1) / work.rows_per_call * kv_heads;
    for (const Visible& row : work.rows)
      steps += (row.end - row.begin) * heads * (k_dim + v_dim) / 8;
    list.push_back(std::move(work));
  }

  Tensor out = new_tensor({rows, heads, v_dim});
  float* results = new_floats(out);
  run_tasks(tasks, steps, [&](int64_t task) {
    const Work& work =
        *(std::upper_bound(list.begin(), list.end(), task,
                           [](int64_t t, const Work& w) { return t < w.first_task; }) -
          1);
    const AttentionSegment& segment = *work.segment;
    const int64_t head = (task - work.first_task) % kv_heads;
    const int64_t first = (task - work.first_task) / kv_heads * work.rows_per_call;
    const int64_t last = std::min(segment.rows, first + work.rows_per_call);
    const int64_t begin = work.rows[static_cast<size_t>(first)].begin;
    const int64_t end = work.rows[static_cast<size_t>(last - 1)].end;

    std::vector<KvRun> runs;
    int64_t base = work.entries;  // number of the first key of the runs
    if (begin < work.entries)
      base = page_runs(*segment.read, head, begin, std::min(end, work.entries), &runs);
    if (work.own && end > work.entries) {
      const bool rounds = segment.own_entries && segment.own_type() != DType::F32;
      const float* own_keys = rounds ? floats(rounded.first) : keys;
      const float* own_values = rounds ? floats(rounded.second) : values;
      for (const AttentionSegment* part : {work.prefix, &segment})
        if (part)
          runs.push_back({.k = own_keys + (part->first_row * kv_heads + head) * k_dim,
                          .v = own_values + (part->first_row * kv_heads + head) * v_dim,
                          .count = part->rows,
                          .k_stride = kv_heads * k_dim,
                          .v_stride = kv_heads * v_dim});
    }
    std::vector<AttendQuery> calls;
    for (int64_t i = first; i < last; ++i)
      for (int64_t h = head * group; h < (head + 1) * group; ++h) {
        const int64_t at = (segment.first_row + i) * heads + h;
        const Visible& seen = work.rows[static_cast<size_t>(i)];
        calls.push_back({.q = queries + at * k_dim,
                         .out = results + at * v_dim,
                         .begin = seen.begin - base,
                         .end = seen.end - base});
      }
    const auto n = static_cast<int64_t>(calls.size());
    kernels_.vector.attend(calls.data(), n, runs.data(), static_cast<int64_t>(runs.size()), k_dim,
                           v_dim, spec.scale, spec.softcap,
                           scratch(scratch_floats(n, end - begin, k_dim, v_dim)));
  });
  append.commit();
  return out;
}

Tensor CpuBackend::full_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                                  std::span<const int32_t> kv_of) {
  REPRISE_CHECK(q.rank() == 4 && k.rank() == 4 && v.rank() == 4);
  const int64_t batch = q.dim(0), m = q.dim(1), heads = q.dim(2), dim = q.dim(3);
  const int64_t sources = k.dim(0), n = k.dim(1), v_dim = v.dim(3);
  REPRISE_CHECK(k.shape() == (Shape{sources, n, heads, dim}) &&
                    v.shape() == (Shape{sources, n, heads, v_dim}) && n > 0,
                "q {}, k {}, v {}", shape_string(q.shape()), shape_string(k.shape()),
                shape_string(v.shape()));
  REPRISE_CHECK(kv_of.empty() ? sources == batch : static_cast<int64_t>(kv_of.size()) == batch);
  for (const int32_t source : kv_of) REPRISE_CHECK(source >= 0 && source < sources);
  const float* queries = floats(q);
  const float* keys = floats(k);
  const float* values = floats(v);
  Tensor out = new_tensor({batch, m, heads, v_dim});
  float* results = new_floats(out);

  const int64_t rows = rows_per_call(1, n), tiles = (m + rows - 1) / rows;
  run_tasks(batch * heads * tiles, batch * heads * m * n * (dim + v_dim) / 8, [&](int64_t task) {
    const int64_t tile = task % tiles, head = task / tiles % heads, item = task / tiles / heads;
    const int64_t source = kv_of.empty() ? item : kv_of[static_cast<size_t>(item)];
    const KvRun run = {.k = keys + (source * n * heads + head) * dim,
                       .v = values + (source * n * heads + head) * v_dim,
                       .count = n,
                       .k_stride = heads * dim,
                       .v_stride = heads * v_dim};
    std::vector<AttendQuery> calls;
    for (int64_t i = tile * rows; i < std::min(m, (tile + 1) * rows); ++i) {
      const int64_t at = (item * m + i) * heads + head;
      calls.push_back({.q = queries + at * dim, .out = results + at * v_dim, .begin = 0, .end = n});
    }
    const auto count = static_cast<int64_t>(calls.size());
    kernels_.vector.attend(calls.data(), count, &run, 1, dim, v_dim, scale, /*softcap=*/0,
                           scratch(scratch_floats(count, n, dim, v_dim)));
  });
  return out;
}

}  // namespace reprise::cpu
