// KV rows on every backend: what grows, is shared, cut back and copied keeps its entries; errors
// leave rows as they were; pages are counted; the integrity check finds what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "backend/factory.h"
#include "backend/kv/check.h"
#include "backend/train_backend.h"
#include "support/error_of.h"
#include "support/torch_device.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

using test::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr KvSpec kSpec = {.heads = 2, .k_dim = 3, .v_dim = 5};
constexpr int64_t kPageBytes = kKvPageTokens * 2 * (3 + 5) * 4;

template <class Body>
void on_backends(const Body& body) {
  std::vector<std::unique_ptr<Backend>> list;
  list.push_back(make_cpu_backend({.threads = 2}));
  if (torch_plugin_path())
    list.push_back(make_torch_backend({.threads = 1, .device = test::torch_device()}));
  for (const auto& backend : list) {
    SCOPED_TRACE(backend->name());
    body(*backend);
  }
}

// What a row should hold: an entry's k and v are all one number, its own.
struct Expected {
  std::vector<int32_t> positions;
  std::vector<float> numbers;

  void truncate(size_t count) {
    positions.resize(count);
    numbers.resize(count);
  }
};

Tensor filled_with(Backend& be, const std::vector<float>& numbers, int64_t width, float factor) {
  std::vector<float> values;
  for (const float number : numbers)
    values.insert(values.end(), static_cast<size_t>(kSpec.heads * width), factor * number);
  return be.from_host(values, {static_cast<int64_t>(numbers.size()), kSpec.heads, width});
}

void append(Backend& be, KvRow& row, const std::vector<int32_t>& positions,
            const std::vector<float>& numbers) {
  const AttentionSegment segment = {
      .rows = static_cast<int64_t>(positions.size()), .positions = positions, .write = &row};
  be.append_kv(filled_with(be, numbers, kSpec.k_dim, 1), filled_with(be, numbers, kSpec.v_dim, -1),
               {&segment, 1});
}

void expect_row(Backend& be, const KvRow& row, const Expected& expected) {
  ASSERT_EQ(row.filled(), static_cast<int64_t>(expected.positions.size()));
  for (int64_t i = 0; i < row.filled(); ++i)
    ASSERT_EQ(row.position(i), expected.positions[static_cast<size_t>(i)]) << i;
  const auto [k, v] = be.read_kv(row, 0, row.filled());
  ASSERT_EQ(be.to_host(k), be.to_host(filled_with(be, expected.numbers, kSpec.k_dim, 1)));
  ASSERT_EQ(be.to_host(v), be.to_host(filled_with(be, expected.numbers, kSpec.v_dim, -1)));
}

std::vector<const KvRow*> pointers(const std::vector<KvRow>& rows) {
  std::vector<const KvRow*> list;
  for (const KvRow& row : rows) list.push_back(&row);
  return list;
}

TEST(KvRow, FindsPositionsAmongHoles) {
  const auto be = make_cpu_backend({.threads = 1});
  Inputs in(60);
  KvRow row = {.spec = kSpec};
  EXPECT_EQ(row.lower_bound(0), 0);
  std::vector<int32_t> positions;
  for (int32_t at = 5; positions.size() < 100; at += 1 + static_cast<int32_t>(in.below(4)))
    positions.push_back(at);
  append(*be, row, positions, std::vector<float>(positions.size(), 1));
  for (const int64_t filled : {100, 97, 96, 65, 64, 63, 33, 32, 1, 0}) {
    row.truncate(filled);
    EXPECT_EQ(row.pages.size(), static_cast<size_t>(kv_pages(filled)));
    const auto end = positions.begin() + filled;
    for (int32_t at = 0; at <= positions.back() + 1; ++at)
      ASSERT_EQ(row.lower_bound(at),
                std::lower_bound(positions.begin(), end, at) - positions.begin())
          << at << " of " << filled;
    if (filled == 0) continue;
    EXPECT_EQ(row.last_position(), positions[static_cast<size_t>(filled - 1)]);
  }
}

// Rows that append, fork, copy each other, are cut back and take over entries, within a budget that
// is sometimes too small, against plain vectors.
TEST(KvRow, HoldWhatTheyShouldInRandomSchedules) {
  on_backends([](Backend& be) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      SCOPED_TRACE(seed);
      Inputs in(70 + seed);
      const auto budget = KvBudget::make(22 * kPageBytes);
      auto reservation = budget->reserve(8 * kPageBytes);
      std::vector<KvRow> rows(6, KvRow{.spec = kSpec, .account = reservation->account()});
      std::vector<Expected> expected(rows.size());
      float next = 1;
      int errors = 0;
      for (int step = 0; step < 250; ++step) {
        const size_t a = in.below(6), b = (a + 1 + in.below(5)) % 6;
        const auto try_it = [&](const auto& work) {
          try {
            work();
            return true;
          } catch (const Error&) {
            ++errors;
            return false;
          }
        };
        const uint32_t kind = in.below(10);
        if (kind < 5) {
          Expected more;
          int32_t at = expected[a].positions.empty() ? 0 : expected[a].positions.back() + 1;
          for (uint32_t i = in.below(60) + 1; i-- > 0; at += in.below(4) == 0 ? 2 : 1) {
            more.positions.push_back(at);
            more.numbers.push_back(next++);
          }
          if (try_it([&] { append(be, rows[a], more.positions, more.numbers); })) {
            auto& to = expected[a];
            to.positions.insert(to.positions.end(), more.positions.begin(), more.positions.end());
            to.numbers.insert(to.numbers.end(), more.numbers.begin(), more.numbers.end());
          }
        } else if (kind == 5) {
          if (try_it([&] { rows[a] = be.fork(rows[b]); })) expected[a] = expected[b];
        } else if (kind == 6) {
          rows[a] = rows[b];  // a snapshot: nothing is copied yet
          expected[a] = expected[b];
        } else if (kind == 7) {
          const uint32_t keep = in.below(static_cast<uint32_t>(rows[a].filled()) + 1);
          rows[a].truncate(keep);
          expected[a].truncate(keep);
        } else {  // entries of b behind those of a, some of them or all
          const int32_t last = expected[a].positions.empty() ? -1 : expected[a].positions.back();
          const bool all = in.below(2) == 0;
          Expected taken;
          for (size_t i = 0; i < expected[b].positions.size(); ++i)
            if (expected[b].positions[i] > last && (all || in.below(5) != 0)) {
              taken.positions.push_back(expected[b].positions[i]);
              taken.numbers.push_back(expected[b].numbers[i]);
            }
          if (try_it([&] { be.alias_kv(rows[b], taken.positions, rows[a]); })) {
            auto& to = expected[a];
            to.positions.insert(to.positions.end(), taken.positions.begin(), taken.positions.end());
            to.numbers.insert(to.numbers.end(), taken.numbers.begin(), taken.numbers.end());
          }
        }
        for (size_t i = 0; i < rows.size(); ++i) expect_row(be, rows[i], expected[i]);
        ASSERT_THAT(kv_problems(pointers(rows), budget.get()), IsEmpty());
      }
      EXPECT_GT(errors, 0) << "the budget was never exhausted";
      reservation.reset();
      rows.clear();
      EXPECT_EQ(budget->usage().used, 0);
      EXPECT_EQ(budget->usage().reserved, 0);
      EXPECT_EQ(be.stats().kv_bytes, 0);
    }
  });
}

TEST(KvRow, AnAliasSharesWholePagesWhereTheyLineUp) {
  on_backends([](Backend& be) {
    std::vector<int32_t> positions(100);
    std::vector<float> numbers(100);
    for (int i = 0; i < 100; ++i) {
      positions[static_cast<size_t>(i)] = 2 * i;
      numbers[static_cast<size_t>(i)] = static_cast<float>(i);
    }
    KvRow from = {.spec = kSpec}, lined_up = from, shifted = from, one = from;
    append(be, from, positions, numbers);
    const int64_t bytes = be.stats().kv_bytes;
    be.alias_kv(from, positions, lined_up);
    EXPECT_EQ(lined_up.pages[1], from.pages[1]);
    EXPECT_EQ(be.stats().kv_bytes, bytes + kPageBytes);  // the partial page
    be.alias_kv(from, std::span(positions).subspan(1), shifted);
    EXPECT_NE(shifted.pages[0], from.pages[0]);
    expect_row(be, lined_up, {positions, numbers});
    expect_row(be, shifted,
               {{positions.begin() + 1, positions.end()}, {numbers.begin() + 1, numbers.end()}});
    be.alias_kv(from, std::span(positions).subspan(77, 1), one);
    expect_row(be, one, {{154}, {77}});
    // No such entry; not behind the last.
    const int32_t hole[] = {155}, before[] = {152};
    EXPECT_THROW(be.alias_kv(from, hole, one), InternalError);
    EXPECT_THROW(be.alias_kv(from, before, one), InternalError);
    expect_row(be, one, {{154}, {77}});
  });
}

TEST(KvRow, AnErrorLeavesAllRowsAsTheyWere) {
  on_backends([](Backend& be) {
    for (const bool attend : {false, true}) {
      const auto budget = KvBudget::make(5 * kPageBytes);
      const auto reservation = budget->reserve(2 * kPageBytes);
      std::vector<KvRow> rows(2, KvRow{.spec = kSpec, .account = reservation->account()});
      append(be, rows[0], {0, 1}, {1, 2});
      const KvRow shared = rows[0];  // its page must be copied before it is written to
      append(be, rows[1], {7}, {3});
      const auto before = rows[0].pages;
      // One page for the copy, two more for the first row, two for the second: one too many.
      std::vector<int32_t> at(130);
      std::vector<float> numbers(130, 9);
      for (int i = 0; i < 70; ++i) at[static_cast<size_t>(i)] = 10 + i;
      for (int i = 70; i < 130; ++i) at[static_cast<size_t>(i)] = i;
      const AttentionSegment segments[] = {
          {0, 70, std::span(at).first(70), rows.data(), rows.data()},
          {70, 60, std::span(at).subspan(70), &rows[1], &rows[1]}};
      const Tensor k = filled_with(be, numbers, kSpec.k_dim, 1);
      const Tensor v = filled_with(be, numbers, kSpec.v_dim, 1);
      EXPECT_THAT(error_of([&] {
                    if (attend)
                      be.attention({2, 2, 3, 5, 1, 0}, k, k, v, segments);
                    else
                      be.append_kv(k, v, segments);
                  }),
                  HasSubstr("KV cache"));
      EXPECT_EQ(rows[0].pages, before);
      expect_row(be, rows[0], {{0, 1}, {1, 2}});
      expect_row(be, rows[1], {{7}, {3}});
      expect_row(be, shared, {{0, 1}, {1, 2}});
      EXPECT_EQ(budget->usage().used, 2 * kPageBytes);
      const KvRow* const all[] = {&rows[0], &rows[1], &shared};
      EXPECT_NO_THROW(check_kv(all, budget.get()));
      append(be, rows[0], {5}, {4});  // and they go on
      expect_row(be, rows[0], {{0, 1, 5}, {1, 2, 4}});
    }
  });
}

// What a model does after an error further on: back to the earlier length.
TEST(KvRow, CuttingBackUndoesAnAppend) {
  on_backends([](Backend& be) {
    KvRow row = {.spec = kSpec};
    append(be, row, {0, 1, 2}, {1, 2, 3});
    const KvRow other = row;
    std::vector<int32_t> at(40);
    for (int i = 0; i < 40; ++i) at[static_cast<size_t>(i)] = 3 + i;
    append(be, row, at, std::vector<float>(40, 4));
    row.truncate(3);
    append(be, row, {8}, {5});
    expect_row(be, row, {{0, 1, 2, 8}, {1, 2, 3, 5}});
    expect_row(be, other, {{0, 1, 2}, {1, 2, 3}});
  });
}

// Requests on threads of their own that go on from one prefix.
TEST(KvRow, ThreadsShareAPrefix) {
  const auto be = make_cpu_backend({.threads = 1});
  const auto budget = KvBudget::make(1000 * kPageBytes);
  Expected prefix;
  for (int i = 0; i < 45; ++i) {
    prefix.positions.push_back(i);
    prefix.numbers.push_back(static_cast<float>(i));
  }
  auto cached = budget->reserve(2 * kPageBytes);
  KvRow first = {.spec = kSpec, .account = cached->account()};
  append(*be, first, prefix.positions, prefix.numbers);
  std::vector<KvRow> rows(4, first);
  cached.reset();
  first = KvRow();  // the last of the threads may write to the page itself
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      KvRow& row = rows[static_cast<size_t>(t)];
      const auto request = budget->reserve(kv_bytes(kSpec, 1, 200));
      row.account = request->account();
      for (int round = 0; round < 20; ++round) {
        const KvRow kept = row;
        for (int32_t i = 0; i < 100; ++i) append(*be, row, {45 + i}, {static_cast<float>(t)});
        row.truncate(45);
        expect_row(*be, kept, prefix);
      }
      expect_row(*be, row, prefix);
      if (t % 2 == 0) row = KvRow();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_NO_THROW(check_kv(pointers(rows), budget.get()));
}

TEST(KvCheck, NamesWhatIsWrong) {
  const auto be = make_cpu_backend({.threads = 1});
  const auto budget = KvBudget::make(10 * kPageBytes);
  const auto reservation = budget->reserve(3 * kPageBytes);
  const auto fresh = [&] {
    KvRow row = {.spec = kSpec, .account = reservation->account()};
    std::vector<int32_t> at(40);
    for (int i = 0; i < 40; ++i) at[static_cast<size_t>(i)] = i;
    append(*be, row, at, std::vector<float>(40, 1));
    return row;
  };
  const auto problems = [&](const KvRow& row, bool counted = false) {
    const KvRow* const rows[] = {&row};
    return kv_problems(rows, counted ? budget.get() : nullptr);
  };
  EXPECT_THAT(problems(fresh(), true), IsEmpty());
  {
    KvRow row = fresh();
    row.entries = 70;
    EXPECT_THAT(problems(row), ElementsAre(HasSubstr("70 entries on 2 pages")));
  }
  {
    KvRow row = fresh();
    row.pages[1] = nullptr;
    EXPECT_THAT(problems(row), ElementsAre(HasSubstr("page 1 is missing")));
  }
  {
    KvRow row = fresh();
    row.pages[0]->positions[3] = 2;
    EXPECT_THAT(problems(row), ElementsAre(HasSubstr("entry 3 at position 2 follows one at 2")));
    const KvRow* const rows[] = {&row};
    EXPECT_THROW(check_kv(rows), InternalError);
  }
  {
    KvRow row = fresh();
    row.pages[1] = row.pages[0];
    EXPECT_THAT(problems(row), ElementsAre(HasSubstr("page 1 is there twice"),
                                           HasSubstr("entry 32 at position 0 follows one at 31")));
  }
  {
    KvRow row = fresh();
    row.spec.v_dim = 6;
    EXPECT_THAT(problems(row), ElementsAre(HasSubstr("3 + 5 wide, F32, the row"),
                                           HasSubstr("3 + 5 wide, F32, the row")));
  }
  {
    KvRow row = fresh();
    row.pages[1]->charge = KvCharge();
    EXPECT_THAT(problems(row), IsEmpty());  // no budget to be held to
    EXPECT_THAT(problems(row, true),
                ElementsAre(HasSubstr("page 1 of 2048 bytes has drawn 0 from another or no")));
  }
  {
    const KvRow row = fresh(), unknown = fresh();
    EXPECT_THAT(problems(row, true),
                ElementsAre(HasSubstr("8192 bytes in use, the rows' pages 4096")));
  }
  {  // the same memory under two counts: writers wouldn't know of each other
    KvRow row = fresh(), other = row;
    const auto keep = row.pages;
    row.pages[0] = std::shared_ptr<KvPage>(keep[0].get(), [](KvPage*) {});
    const KvRow* const rows[] = {&other, &row};
    EXPECT_THAT(kv_problems(rows), ElementsAre(HasSubstr("a page that 2 rows hold counts 1")));
  }
}

}  // namespace
}  // namespace reprise::testing
