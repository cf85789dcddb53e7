#include <algorithm>

#include "backend/kv.h"

namespace reprise {

int64_t KvRow::lower_bound(int64_t position) const {
  if (entries == 0 || last_position() < position) return entries;
  // The last page that begins before `position` holds the entry, or ends in front of it.
  const auto page = std::partition_point(
      pages.begin(), pages.end(), [&](const auto& one) { return one->positions[0] < position; });
  if (page == pages.begin()) return 0;
  const int64_t first = (page - pages.begin() - 1) * kKvPageTokens;
  const auto& positions = (*(page - 1))->positions;
  const int64_t count = std::min<int64_t>(kKvPageTokens, entries - first);
  return first + (std::lower_bound(positions.begin(), positions.begin() + count, position) -
                  positions.begin());
}

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
    next += segment.rows;
  }
  REPRISE_CHECK(next == rows, "segments of {} rows for {}", next, rows);
}

}  // namespace reprise
