#include "backend/kv/check.h"

#include <map>
#include <set>

namespace reprise {
namespace {

std::string spec_text(const KvSpec& spec) {
  return fmt::format("{} heads, {} + {} wide, {}", spec.heads, spec.k_dim, spec.v_dim,
                     dtype_name(spec.type));
}

// Problems of a row by itself. Stops where going on would read what isn't there.
void check_row(const std::string& name, const KvRow& row, const KvBudget* budget,
               std::vector<std::string>& problems) {
  const auto problem = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    problems.push_back(name + ": " + fmt::format(format, std::forward<Args>(args)...));
  };
  if (row.entries < 0 || static_cast<int64_t>(row.pages.size()) != kv_pages(row.entries))
    return problem("{} entries on {} pages", row.entries, row.pages.size());
  std::set<const KvPage*> seen;
  for (size_t i = 0; i < row.pages.size(); ++i) {
    const KvPage* page = row.pages[i].get();
    if (page == nullptr) return problem("page {} is missing", i);
    if (!seen.insert(page).second) problem("page {} is there twice", i);
    if (!(page->spec == row.spec))
      problem("page {} has {}, the row {}", i, spec_text(page->spec), spec_text(row.spec));
    const int64_t bytes = page->spec.bytes_per_page(), drawn = page->charge.bytes();
    if (budget != nullptr && (page->charge.budget() != budget || drawn != bytes))
      problem("page {} of {} bytes has drawn {} from {} budget", i, bytes, drawn,
              page->charge.budget() == budget ? "the" : "another or no");
  }
  for (int64_t i = 1; i < row.entries; ++i)
    if (row.position(i) <= row.position(i - 1))
      return problem("entry {} at position {} follows one at {}", i, row.position(i),
                     row.position(i - 1));
}

}  // namespace

std::vector<std::string> kv_problems(std::span<const KvRow* const> rows, const KvBudget* budget) {
  std::vector<std::string> problems;
  std::map<const KvPage*, std::pair<long, long>> holders;  // in these rows, by shared_ptr's count
  for (size_t i = 0; i < rows.size(); ++i) {
    check_row(fmt::format("KV row {}", i), *rows[i], budget, problems);
    for (const auto& page : rows[i]->pages)
      if (page) {
        auto& [found, counted] = holders[page.get()];
        ++found;
        counted = page.use_count();
      }
  }
  int64_t used = 0;
  for (const auto& [page, count] : holders) {
    if (count.first > count.second)
      problems.push_back(
          fmt::format("a page that {} rows hold counts {}", count.first, count.second));
    if (budget && page->charge.budget() == budget) used += page->charge.bytes();
  }
  if (budget) {
    const KvBudget::Usage usage = budget->usage();
    if (used != usage.used)
      problems.push_back(
          fmt::format("the KV budget has {} bytes in use, the rows' pages {}", usage.used, used));
    if (usage.used < 0 || usage.reserved < 0 || usage.free() < 0)
      problems.push_back(fmt::format("the KV budget of {} bytes has {} in use and {} reserved",
                                     usage.limit, usage.used, usage.reserved));
  }
  return problems;
}

void check_kv(std::span<const KvRow* const> rows, const KvBudget* budget) {
  const std::vector<std::string> problems = kv_problems(rows, budget);
  if (problems.empty()) return;
  std::string text = "KV rows are not in order:";
  for (const std::string& problem : problems) text += "\n  " + problem;
  throw InternalError(text);
}

}  // namespace reprise
