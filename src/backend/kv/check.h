// Whether KV rows are in order, to be asked while nothing runs on them: by tests, and by a
// scheduler when it is idle. Reads no keys or values.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "backend/kv.h"

namespace reprise {

// What is wrong with these rows, a line each; empty when nothing is:
//   - as many pages as filled() needs, all there, of the row's width, none twice in a row;
//   - positions strictly ascending;
//   - a page's reference count covers all rows that hold it: copying before writing relies on it.
// With a budget, the rows must be all that hold pages of it, and hold no others: every page was
// drawn from it, the pages, each counted once, come to what it has in use, and use and reservations
// are within its limit.
std::vector<std::string> kv_problems(std::span<const KvRow* const> rows,
                                     const KvBudget* budget = nullptr);

// Throws InternalError with all of them.
void check_kv(std::span<const KvRow* const> rows, const KvBudget* budget = nullptr);

}  // namespace reprise
