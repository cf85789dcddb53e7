#include "backend/torch/attention_layout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "base/error.h"

namespace reprise {
namespace {

using Segments = std::span<const AttentionSegment>;

// Entries of one mask kept small enough that a training step's masks stay below a few 100 MB.
constexpr int64_t kMaskEntries = int64_t{1} << 25;
// Reading a prefix again for one more child costs about what this many more query rows cost.
constexpr int64_t kCopyRows = 24;

// Queries of some segments that attend to one prefix (or none) and each to itself.
struct Group {
  int prefix = -1;
  std::vector<int> members;
  int64_t queries = 0;
  int64_t keys = 0;
};

const AttentionSegment& at(Segments segments, int i) { return segments[static_cast<size_t>(i)]; }

Group make_group(Segments segments, int prefix, std::vector<int> members) {
  Group group{prefix, std::move(members)};
  for (int i : group.members) group.queries += at(segments, i).rows;
  group.keys = group.queries + (prefix >= 0 ? at(segments, prefix).rows : 0);
  return group;
}

// All children of a prefix in one group compute scores between siblings only to mask them; a group
// per child reads the prefix's keys once for each. Takes what is cheaper.
void add_children(Segments segments, int prefix, const std::vector<int>& children,
                  std::vector<Group>& groups) {
  Group together = make_group(segments, prefix, children);
  int64_t apart = 0;
  for (int i : children)
    apart +=
        (at(segments, i).rows + kCopyRows) * (at(segments, prefix).rows + at(segments, i).rows);
  if (together.queries * together.keys <= apart) {
    groups.push_back(std::move(together));
    return;
  }
  for (int i : children) groups.push_back(make_group(segments, prefix, {i}));
}

bool needs_mask(Segments segments, const Group& group, int64_t window) {
  if (group.prefix >= 0 || group.members.size() > 1) return true;
  const auto& positions = at(segments, group.members[0]).positions;
  return window > 0 && positions.back() - positions.front() >= window;
}

// Rows of a group's keys: the prefix, then its members. The queries are the same without the
// prefix.
void fill_rows(Segments segments, const Group& group, bool with_prefix, int32_t* out) {
  const auto append = [&](const AttentionSegment& s) {
    for (int64_t i = 0; i < s.rows; ++i) *out++ = static_cast<int32_t>(s.first_row + i);
  };
  if (with_prefix && group.prefix >= 0) append(at(segments, group.prefix));
  for (int i : group.members) append(at(segments, i));
}

// mask [queries, keys] of the job: 0 where the query sees the key.
void fill_mask(Segments segments, const Group& group, int64_t window, int64_t keys, float* mask,
               int64_t queries) {
  std::fill(mask, mask + queries * keys, -std::numeric_limits<float>::infinity());
  const auto see = [&](int32_t query, std::span<const int32_t> positions, float* out) {
    for (size_t j = 0; j < positions.size(); ++j) {
      const int64_t back = int64_t{query} - positions[j];
      if (back >= 0 && (window == 0 || back < window)) out[j] = 0.0f;
    }
  };
  const std::span<const int32_t> prefix =
      group.prefix >= 0 ? at(segments, group.prefix).positions : std::span<const int32_t>{};
  int64_t row = 0;
  auto own = static_cast<int64_t>(prefix.size());
  for (int i : group.members) {
    const AttentionSegment& s = at(segments, i);
    for (int32_t query : s.positions) {
      see(query, prefix, mask + row * keys);
      see(query, s.positions, mask + row * keys + own);
      ++row;
    }
    own += s.rows;
  }
  for (; row < queries; ++row) mask[row * keys] = 0.0f;  // padding: any finite softmax will do
}

// All masks of a job, or the one that they all are.
at::Tensor make_mask(Segments segments, std::span<const Group> groups, int64_t window,
                     int64_t queries, int64_t keys) {
  const auto batch = static_cast<int64_t>(groups.size());
  const int64_t each = queries * keys;
  at::Tensor mask = at::empty({batch, 1, queries, keys}, at::kFloat);
  float* values = mask.data_ptr<float>();
  bool equal = true;
  for (int64_t b = 0; b < batch; ++b) {
    fill_mask(segments, groups[static_cast<size_t>(b)], window, keys, values + b * each, queries);
    equal = equal &&
            std::memcmp(values, values + b * each, static_cast<size_t>(each) * sizeof(float)) == 0;
  }
  return equal ? mask.narrow(0, 0, 1).clone() : mask;
}

// The row at which `rows` starts when it is an ascending run, else -1.
int64_t run_start(const std::vector<int32_t>& rows) {
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[0] < 0 || rows[i] != rows[0] + static_cast<int32_t>(i)) return -1;
  return rows.empty() ? -1 : rows[0];
}

// Puts the groups into one batch. Notes in `place` where each row's result will be.
AttentionJob make_job(Segments segments, std::span<const Group> groups, bool masked, int64_t window,
                      int64_t total_rows, int64_t place_offset, std::vector<int32_t>& place) {
  AttentionJob job;
  job.batch = static_cast<int64_t>(groups.size());
  bool prefix = false;
  for (const Group& group : groups) {
    job.queries = std::max(job.queries, group.queries);
    job.keys = std::max(job.keys, group.keys);
    prefix = prefix || group.prefix >= 0;
  }
  job.same_rows = !prefix;
  std::vector<int32_t> query_rows(static_cast<size_t>(job.batch * job.queries), -1);
  std::vector<int32_t> key_rows(prefix ? static_cast<size_t>(job.batch * job.keys) : 0, -1);
  for (int64_t b = 0; b < job.batch; ++b) {
    const Group& group = groups[static_cast<size_t>(b)];
    fill_rows(segments, group, false, query_rows.data() + b * job.queries);
    if (prefix) fill_rows(segments, group, true, key_rows.data() + b * job.keys);
  }
  for (size_t i = 0; i < query_rows.size(); ++i)
    if (query_rows[i] >= 0)
      place[static_cast<size_t>(query_rows[i])] =
          static_cast<int32_t>(place_offset + static_cast<int64_t>(i));
  job.first_row = run_start(query_rows);
  if (job.first_row < 0) job.query_rows = make_row_index(query_rows, total_rows);
  if (prefix) job.key_rows = make_row_index(key_rows, total_rows);
  // Without a mask padding needs none either: padded keys lie behind all queries that count.
  if (masked)
    job.mask = make_mask(segments, groups, window, job.queries, job.keys);
  else
    job.causal = true;
  return job;
}

std::vector<Group> make_groups(Segments segments) {
  std::vector<Group> groups;
  std::map<int, std::vector<int>> children;  // by prefix
  for (int i = 0; i < static_cast<int>(segments.size()); ++i) {
    const AttentionSegment& s = at(segments, i);
    if (s.rows == 0) continue;
    if (s.prefix >= 0 && at(segments, s.prefix).rows > 0)
      children[s.prefix].push_back(i);
    else
      groups.push_back(make_group(segments, -1, {i}));
  }
  for (const auto& [prefix, members] : children) add_children(segments, prefix, members, groups);
  return groups;
}

}  // namespace

std::vector<int32_t> layout_key(Segments segments) {
  std::vector<int32_t> key;
  key.push_back(static_cast<int32_t>(segments.size()));
  for (const AttentionSegment& s : segments) {
    key.push_back(static_cast<int32_t>(s.rows));
    key.push_back(s.prefix);
    key.insert(key.end(), s.positions.begin(), s.positions.end());
  }
  return key;
}

std::shared_ptr<const AttentionLayout> make_attention_layout(Segments segments, int64_t window) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->window = window;
  layout->key = layout_key(segments);
  for (size_t i = 0; i < segments.size(); ++i) {
    const AttentionSegment& s = segments[i];
    REPRISE_CHECK(s.read == nullptr && s.write == nullptr, "segment {} has a KV row", i);
    REPRISE_CHECK(s.first_row == layout->rows && s.rows >= 0 && s.prefix >= -1 &&
                      s.prefix < static_cast<int>(i) &&
                      static_cast<int64_t>(s.positions.size()) == s.rows,
                  "segment {}", i);
    REPRISE_CHECK(std::adjacent_find(s.positions.begin(), s.positions.end(),
                                     std::greater_equal<>{}) == s.positions.end(),
                  "segment {}: positions don't ascend", i);
    layout->rows += s.rows;
  }

  // Groups of one kind from the largest down; a job takes groups down to 3/4 of its first. Equal
  // groups keep their order, so that a regular batch is a plain view of the rows.
  std::vector<Group> groups = make_groups(segments);
  std::vector<Group> kinds[2];
  for (Group& group : groups)
    kinds[needs_mask(segments, group, window)].push_back(std::move(group));
  std::vector<int32_t> place(static_cast<size_t>(layout->rows), -1);
  int64_t place_offset = 0;
  for (int masked = 0; masked < 2; ++masked) {
    std::vector<Group>& kind = kinds[masked];
    std::stable_sort(kind.begin(), kind.end(), [](const Group& a, const Group& b) {
      return std::pair(a.keys, a.queries) > std::pair(b.keys, b.queries);
    });
    for (size_t begin = 0; begin < kind.size();) {
      size_t end = begin;
      int64_t most = 0, fewest = std::numeric_limits<int64_t>::max();
      for (; end < kind.size(); ++end) {
        const int64_t high = std::max(most, kind[end].queries);
        const int64_t low = std::min(fewest, kind[end].queries);
        const auto batch = static_cast<int64_t>(end - begin);
        if (end > begin && (4 * kind[end].keys < 3 * kind[begin].keys || 4 * low < 3 * high ||
                            (masked && (batch + 1) * high * kind[begin].keys > kMaskEntries)))
          break;
        most = high;
        fewest = low;
      }
      layout->jobs.push_back(make_job(segments, std::span(kind).subspan(begin, end - begin),
                                      masked != 0, window, layout->rows, place_offset, place));
      place_offset += layout->jobs.back().batch * layout->jobs.back().queries;
      begin = end;
    }
  }
  layout->in_order = run_start(place) == 0 && place_offset == layout->rows;
  if (!layout->in_order) layout->result_rows = make_row_index(place, place_offset);
  return layout;
}

}  // namespace reprise
