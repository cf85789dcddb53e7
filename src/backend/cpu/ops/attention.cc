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

// Keys [begin, end) of a row's list of keys.
struct Visible {
  int64_t begin;
  int64_t end;
};

Visible visible(std::span<const int32_t> positions, int32_t own, int64_t window) {
  const auto end = std::upper_bound(positions.begin(), positions.end(), own);
  auto begin = positions.begin();
  if (window > 0) begin = std::lower_bound(positions.begin(), end, int64_t{own} - window + 1);
  REPRISE_CHECK(begin < end, "the query at position {} sees no key", own);
  return {begin - positions.begin(), end - positions.begin()};
}

// A segment with what its queries see.
struct Work {
  const AttentionSegment* segment;
  const AttentionSegment* prefix = nullptr;  // functional only
  std::vector<Visible> rows;
  int64_t keys = 0;  // all of them
  int64_t rows_per_call = 1;
  int64_t first_task = 0;
};

void check_segments(std::span<const AttentionSegment> segments, int64_t rows) {
  int64_t next = 0;
  for (const AttentionSegment& segment : segments) {
    REPRISE_CHECK(segment.first_row == next && segment.rows >= 0 &&
                      static_cast<int64_t>(segment.positions.size()) == segment.rows,
                  "segment at row {} of {} rows and {} positions, expected at {}",
                  segment.first_row, segment.rows, segment.positions.size(), next);
    REPRISE_CHECK(std::adjacent_find(segment.positions.begin(), segment.positions.end(),
                                     std::greater_equal<>()) == segment.positions.end(),
                  "positions of a segment don't ascend");
    REPRISE_CHECK(segment.read || !segment.write, "a segment writes a KV row but reads none");
    next += segment.rows;
  }
  REPRISE_CHECK(next == rows, "segments of {} rows for {}", next, rows);
}

// After all new entries were appended: those of later positions are not seen.
Work plan(std::span<const AttentionSegment> segments, size_t index, const AttentionSpec& spec) {
  const AttentionSegment& segment = segments[index];
  Work work = {.segment = &segment};
  std::vector<int32_t> joined;
  std::span<const int32_t> positions = segment.positions;
  if (segment.read) {
    positions = segment.read->positions;
  } else if (segment.prefix >= 0) {
    REPRISE_CHECK(static_cast<size_t>(segment.prefix) < index, "prefix {} of segment {}",
                  segment.prefix, index);
    work.prefix = &segments[static_cast<size_t>(segment.prefix)];
    joined.assign(work.prefix->positions.begin(), work.prefix->positions.end());
    REPRISE_CHECK(joined.empty() || positions.empty() || joined.back() < positions[0],
                  "a segment's positions don't lie behind its prefix");
    joined.insert(joined.end(), positions.begin(), positions.end());
    positions = joined;
  }
  for (const int32_t own : segment.positions)
    work.rows.push_back(visible(positions, own, spec.window));
  work.keys = static_cast<int64_t>(positions.size());
  return work;
}

// The runs that hold keys [begin, end) for one KV head; returns the number of the first run's first
// key.
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
  const float* queries = floats(q);
  const float* keys = floats(k);
  const float* values = floats(v);
  append_kv(spec, keys, values, segments);

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
    // Both ends ascend with the position.
    const int64_t begin = work.rows[static_cast<size_t>(first)].begin;
    const int64_t end = work.rows[static_cast<size_t>(last - 1)].end;

    std::vector<KvRun> runs;
    int64_t base = 0;  // number of the first key of the runs
    if (segment.read) {
      base = page_runs(*segment.read, head, begin, end, &runs);
    } else {
      for (const AttentionSegment* part : {work.prefix, &segment})
        if (part)
          runs.push_back({.k = keys + (part->first_row * kv_heads + head) * k_dim,
                          .v = values + (part->first_row * kv_heads + head) * v_dim,
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
                           v_dim, spec.scale,
                           scratch(scratch_floats(n, end - begin, k_dim, v_dim)));
  });
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
    kernels_.vector.attend(calls.data(), count, &run, 1, dim, v_dim, scale,
                           scratch(scratch_floats(count, n, dim, v_dim)));
  });
  return out;
}

}  // namespace reprise::cpu
