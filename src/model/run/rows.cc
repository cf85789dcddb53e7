#include "model/run/rows.h"

#include <algorithm>
#include <set>

namespace reprise {

Sequence Sequence::fork(Backend& be, int64_t tokens, std::shared_ptr<KvAccount> account) const {
  REPRISE_CHECK(tokens >= 0 && tokens <= length);
  Sequence copy;
  for (const auto& [number, row] : kv) {
    KvRow part = row;
    part.truncate(part.lower_bound(tokens));
    if (account) part.account = account;
    copy.kv[number] = be.fork(part);
  }
  copy.scheme = scheme ? scheme->clone() : nullptr;
  if (copy.scheme) copy.scheme->truncate(tokens);
  copy.initial = initial;
  copy.account = std::move(account);
  copy.length = tokens;
  return copy;
}

void Sequence::end_prompt(const Plan& plan) {
  for (size_t row = 0; row < plan.kv_rows.size(); ++row)
    if (plan.kv_rows[row].lifetime == Lifetime::Prompt) kv.erase(static_cast<int>(row));
}

void Sequence::truncate(int64_t new_length) {
  for (auto it = kv.begin(); it != kv.end();) {
    KvRow& row = it->second;
    row.truncate(row.lower_bound(new_length));
    it = row.filled() == 0 ? kv.erase(it) : std::next(it);
  }
  if (scheme) scheme->truncate(new_length);
  length = std::min(length, new_length);
}

KvRow& Sequence::row(int number, const KvSpec& spec) {
  KvRow& row = kv[number];
  if (row.filled() == 0) {
    row.spec = spec;
    row.account = account;
  }
  return row;
}

int64_t Sequence::kv_bytes() const { return kv_bytes_held({this, 1}); }

int64_t kv_bytes_held(std::span<const Sequence> sequences) {
  std::set<const KvPage*> counted;
  int64_t bytes = 0;
  for (const Sequence& sequence : sequences)
    for (const auto& [number, row] : sequence.kv)
      for (const auto& page : row.pages)
        if (counted.insert(page.get()).second) bytes += row.spec.bytes_per_page();
  return bytes;
}

void Rows::append(Sequence& sequence, int64_t count, int64_t total_length) {
  segments.push_back({&sequence, size(), count, total_length, -1});
  for (int64_t i = 0; i < count; ++i)
    positions.push_back(static_cast<int32_t>(sequence.length + i));
}

}  // namespace reprise
