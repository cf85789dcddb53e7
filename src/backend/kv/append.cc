#include "backend/kv/append.h"

#include <algorithm>

namespace reprise {
namespace {

// Whether nobody else holds the page. Another thread's row may just have let it go; use_count alone
// is a relaxed read, so a reference is taken and dropped, which puts what that row has read before
// what is written now.
bool held_alone(const std::shared_ptr<KvPage>& page) {
  if (page.use_count() > 1) return false;
  std::shared_ptr<KvPage>(page).reset();
  return true;
}

std::shared_ptr<KvPage> copy_of(Backend& backend, const KvRow& row, const KvPage& page,
                                int64_t count) {
  std::shared_ptr<KvPage> copy = new_page_for(backend, row);
  backend.copy_entries(page, 0, *copy, 0, count);
  std::copy_n(page.positions.begin(), count, copy->positions.begin());
  return copy;
}

}  // namespace

std::shared_ptr<KvPage> new_page_for(Backend& backend, const KvRow& row) {
  KvCharge charge;
  if (row.account) charge = row.account->draw(row.spec.bytes_per_page());
  std::shared_ptr<KvPage> page = backend.new_page(row.spec);
  page->charge = std::move(charge);
  return page;
}

KvAppend::~KvAppend() {
  for (; !done_.empty(); done_.pop_back()) {
    Step& step = done_.back();
    step.row->truncate(step.entries);
    if (step.last) step.row->pages.back() = std::move(step.last);
  }
}

void KvAppend::begin(KvRow& row) {
  REPRISE_CHECK(static_cast<int64_t>(row.pages.size()) == kv_pages(row.entries),
                "{} pages for {} entries", row.pages.size(), row.entries);
  done_.push_back({&row, row.entries, nullptr});
}

int64_t KvAppend::extend(KvRow& row, std::span<const int32_t> positions) {
  const int64_t first = row.entries;
  if (positions.empty()) return first;
  REPRISE_CHECK(first == 0 || positions[0] > row.last_position(),
                "position {} is appended after {}", positions[0], row.last_position());
  REPRISE_CHECK(std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<>()) ==
                    positions.end(),
                "appended positions don't ascend");
  begin(row);
  if (first % kKvPageTokens != 0 && !held_alone(row.pages.back())) {
    auto copy = copy_of(backend_, row, *row.pages.back(), first % kKvPageTokens);
    done_.back().last = std::exchange(row.pages.back(), std::move(copy));
  }
  const int64_t end = first + static_cast<int64_t>(positions.size());
  const auto pages = static_cast<size_t>(kv_pages(end));
  // If a page can't be had, the destructor drops those made before: they belong to no entry yet.
  while (row.pages.size() < pages) row.pages.push_back(new_page_for(backend_, row));
  for (int64_t i = first; i < end;) {
    const int64_t offset = i % kKvPageTokens, count = std::min(end - i, kKvPageTokens - offset);
    std::copy_n(positions.begin() + (i - first), count,
                row.pages[static_cast<size_t>(i / kKvPageTokens)]->positions.begin() + offset);
    i += count;
  }
  row.entries = end;
  return first;
}

void KvAppend::share(KvRow& row, const std::shared_ptr<KvPage>& page) {
  REPRISE_CHECK(page->spec == row.spec && row.entries % kKvPageTokens == 0);
  REPRISE_CHECK(row.entries == 0 || page->positions[0] > row.last_position(),
                "position {} is appended after {}", page->positions[0], row.last_position());
  begin(row);
  row.pages.push_back(page);
  row.entries += kKvPageTokens;
}

// ---- Operations of every backend that are made of it

KvRow Backend::fork(const KvRow& row) {
  KvRow copy = row;
  const int64_t rest = row.entries % kKvPageTokens;
  if (rest != 0) copy.pages.back() = copy_of(*this, row, *row.pages.back(), rest);
  return copy;
}

void Backend::alias_kv(const KvRow& from, std::span<const int32_t> positions, KvRow& to) {
  REPRISE_CHECK(&from != &to && from.spec == to.spec, "an alias between rows of unlike width");
  KvAppend append(*this);
  const auto n = static_cast<int64_t>(positions.size());
  int64_t at = n > 0 ? from.lower_bound(positions[0]) : 0;
  for (int64_t done = 0; done < n;) {
    const auto wanted = [&](int64_t i) { return positions[static_cast<size_t>(done + i)]; };
    while (at < from.filled() && from.position(at) < wanted(0)) ++at;
    REPRISE_CHECK(at < from.filled() && from.position(at) == wanted(0),
                  "no entry at position {} to alias", wanted(0));
    const std::shared_ptr<KvPage>& page = from.pages[static_cast<size_t>(at / kKvPageTokens)];
    // How many of the page's entries follow each other in both.
    const int64_t offset = at % kKvPageTokens, end = to.filled() % kKvPageTokens;
    const int64_t limit = std::min({kKvPageTokens - offset, n - done, from.filled() - at});
    int64_t count = 1;
    while (count < limit && from.position(at + count) == wanted(count)) ++count;
    if (count == kKvPageTokens && end == 0) {
      append.share(to, page);
    } else {
      count = std::min(count, kKvPageTokens - end);
      append.extend(to, positions.subspan(static_cast<size_t>(done), static_cast<size_t>(count)));
      copy_entries(*page, offset, *to.pages.back(), end, count);
    }
    done += count;
    at += count;
  }
  append.commit();
}

}  // namespace reprise
