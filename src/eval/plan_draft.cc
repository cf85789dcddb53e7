#include "eval/plan_draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace reprise {
namespace {

constexpr size_t kMostEdits = 6;
constexpr int kMostTimes = 4;

// Two digits say enough, and make equal plans equal texts.
float rounded(float factor) {
  const float unit = std::abs(factor) < 0.095f ? 1e-3f : 1e-2f;
  return std::round(factor / unit) * unit;
}

std::string range(int first, int last) {
  if (first > last) return "";
  return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
}

std::string edit_text(const PlanEdit& edit) {
  std::string text = range(edit.first, edit.last);
  const bool share = edit.factor == 1.0f / static_cast<float>(edit.times);
  if (edit.times > 1) text += fmt::format("*{}", edit.times);
  if (!share) text += fmt::format("@{:.3g}", edit.factor);
  return text;
}

// Whether it changes anything and is one that a search should look at.
bool sensible(const PlanEdit& edit, int blocks, int keep) {
  if (edit.first < keep || edit.last < edit.first || edit.last >= blocks) return false;
  if (edit.times < 1 || edit.times > kMostTimes) return false;
  if (!(edit.factor > 0) || edit.factor > 2) return false;
  return edit.again || edit.times > 1 || edit.factor != 1;
}

bool disjoint(const PlanDraft& draft) {
  for (size_t i = 1; i < draft.size(); ++i)
    if (draft[i].first <= draft[i - 1].last) return false;
  return true;
}

std::vector<PlanEdit> around(const PlanEdit& edit) {
  std::vector<PlanEdit> all;
  const auto with = [&](auto change) {
    PlanEdit other = edit;
    change(other);
    all.push_back(other);
  };
  for (const int by : {-1, 1, -2, 2}) {
    with([by](PlanEdit& one) { one.first += by; });
    with([by](PlanEdit& one) { one.last += by; });
    with([by](PlanEdit& one) { one.first += by, one.last += by; });
  }
  // A factor on the plain visits is near 1, one on further visits near 0.
  const bool plain = !edit.again && edit.times == 1;
  const float zero = plain ? 1.0f : 0.0f;
  for (const float by : {0.5f, 0.7f, 1.4f, 2.0f})
    with([&](PlanEdit& one) { one.factor = rounded(zero + (edit.factor - zero) * by); });
  if (plain) with([](PlanEdit& one) { one.factor = rounded(2 - one.factor); });
  for (const int by : {-1, 1}) {
    // The same update in all, in more or fewer visits.
    with([by](PlanEdit& one) {
      const float all_of_it = one.factor * static_cast<float>(one.times);
      one.times += by;
      if (one.times > 0) {
        one.factor = all_of_it / static_cast<float>(one.times);
        if (all_of_it != 1) one.factor = rounded(one.factor);
      }
    });
  }
  return all;
}

}  // namespace

std::string plan_text(const PlanDraft& draft, int blocks) {
  std::string text;
  const auto add = [&](const std::string& piece) {
    if (!piece.empty()) text += (text.empty() ? "" : ",") + piece;
  };
  int next = 0;  // block
  for (const PlanEdit& edit : draft) {
    add(range(next, edit.again ? edit.last : edit.first - 1));
    add(edit_text(edit));
    next = edit.last + 1;
  }
  add(range(next, blocks - 1));
  return text;
}

std::vector<PlanDraft> single_edits(int blocks, int keep) {
  // Replays for a part of their update, replays that share one update, and updates scaled.
  const PlanEdit ways[] = {
      {.again = true, .factor = 0.1f},
      {.again = false, .factor = 1.1f},
      {.again = true, .factor = 0.3f},
      {.again = false, .times = 2, .factor = 0.5f},
      {.again = false, .factor = 0.9f},
      {.again = false, .times = 3, .factor = 1.0f / 3},
      {.again = true, .times = 2, .factor = 0.1f},
  };
  std::vector<PlanDraft> all;
  for (const int length : {1, 2, 3, 5, 8, 13})
    for (int first = keep; first + length <= blocks; first += std::max(1, length / 2))
      for (PlanEdit edit : ways) {
        edit.first = first;
        edit.last = first + length - 1;
        all.push_back({edit});
      }
  return all;
}

std::vector<PlanDraft> neighbours(const PlanDraft& draft, int blocks, int keep) {
  std::vector<PlanDraft> all;
  for (size_t i = 0; i < draft.size(); ++i) {
    for (const PlanEdit& edit : around(draft[i])) {
      PlanDraft other = draft;
      other[i] = edit;
      if (sensible(edit, blocks, keep) && disjoint(other)) all.push_back(std::move(other));
    }
    if (draft.size() == 1) continue;
    PlanDraft fewer = draft;
    fewer.erase(fewer.begin() + static_cast<ptrdiff_t>(i));
    all.push_back(std::move(fewer));
  }
  return all;
}

PlanDraft joined(const PlanDraft& a, const PlanDraft& b) {
  PlanDraft all = a;
  all.insert(all.end(), b.begin(), b.end());
  std::ranges::sort(all, {}, &PlanEdit::first);
  return all.size() <= kMostEdits && disjoint(all) ? all : PlanDraft();
}

}  // namespace reprise
