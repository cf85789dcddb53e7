#include "eval/plan_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "eval/plan_draft.h"

namespace reprise {
namespace {

constexpr size_t kFirstShare = 8;  // a power of 2: a halving begins with one unit in so many
constexpr size_t kFewest = 4;      // plans that no step goes below
constexpr size_t kParents = 5;     // best plans that a round starts from
constexpr int kPatience = 2;       // rounds without a better plan

class Search {
 public:
  Search(const PlanSearch& search, PlanFigures& figures) : search_(search), figures_(figures) {
    REPRISE_CHECK(!search.tokens.empty() && search.blocks > 0);
    plain_ = plan_text({}, search.blocks);
    // Units in an order in which each beginning is spread over the text.
    order_.resize(search.tokens.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    shuffle(order_);
  }

  PlanSearchResult run() {
    std::vector<PlanDraft> first = single_edits(search_.blocks, search_.keep);
    shuffle(first);
    const int budget = std::max(search_.budget, 1);
    std::vector<std::string> plans;
    for (const std::string& plan : search_.tried) add(plan, plans);
    take(first, std::max(budget * 2 / 5, std::min(budget, 8)), plans);
    halve(plans);
    for (int idle = 0; idle < kPatience && looked_at() < budget && !stopped_; ++progress_.round) {
      const std::string before = progress_.best;
      std::vector<PlanDraft> next = around_best();
      plans.clear();
      take(next, std::min(std::max(budget / 8, 4), budget - looked_at()), plans);
      if (plans.empty()) break;
      halve(plans);
      idle = progress_.best == before ? idle + 1 : 0;
    }
    return result();
  }

 private:
  // Fixed: a search that is taken up again must look at the same plans.
  template <typename T>
  static void shuffle(std::vector<T>& all) {
    Philox random(0, all.size());
    for (size_t i = all.size(); i > 1; --i)
      std::swap(all[i - 1], all[random.next_below(static_cast<uint32_t>(i))]);
  }

  int looked_at() const { return static_cast<int>(seen_.size()); }

  bool add(const std::string& plan, std::vector<std::string>& plans) {
    if (plan == plain_ || !seen_.insert(plan).second) return false;
    plans.push_back(plan);
    return true;
  }

  // The first `count` new ones.
  void take(const std::vector<PlanDraft>& drafts, int count, std::vector<std::string>& plans) {
    for (const PlanDraft& draft : drafts) {
      if (count <= 0) return;
      if (draft.empty()) continue;
      const std::string text = plan_text(draft, search_.blocks);
      if (!add(text, plans)) continue;
      drafts_[text] = draft;
      --count;
    }
  }

  std::vector<PlanDraft> around_best() {
    std::vector<PlanDraft> parents;
    for (const RankedPlan& ranked : ranking()) {
      if (parents.size() == kParents) break;
      if (const auto it = drafts_.find(ranked.plan); it != drafts_.end())
        parents.push_back(it->second);
    }
    std::vector<PlanDraft> joins, near;
    for (size_t i = 0; i < parents.size(); ++i)
      for (size_t j = i + 1; j < parents.size(); ++j)
        joins.push_back(joined(parents[i], parents[j]));
    // Every other one around the best plan, the rest around those behind it.
    std::vector<std::vector<PlanDraft>> around;
    for (const PlanDraft& parent : parents) {
      around.push_back(neighbours(parent, search_.blocks, search_.keep));
      shuffle(around.back());
    }
    for (bool more = true; more;) {
      more = false;
      for (size_t i = 0; i < around.size(); ++i)
        for (size_t n = i == 0 ? around.size() : 1; n > 0 && !around[i].empty(); --n) {
          near.push_back(around[i].back());
          around[i].pop_back();
          more = true;
        }
    }
    // Joins first, but not all of a round.
    std::vector<PlanDraft> all;
    for (size_t i = 0; i < std::max(joins.size(), near.size()); ++i) {
      if (i < joins.size()) all.push_back(joins[i]);
      if (i < near.size()) all.push_back(near[i]);
    }
    return all;
  }

  std::vector<double>& nats(const std::string& plan) {
    std::vector<double>& units = figures_[plan];
    units.resize(order_.size(), std::numeric_limits<double>::quiet_NaN());
    return units;
  }

  // Per token, from the plain depth, on the first units of the order.
  double difference(const std::string& plan, size_t units) {
    const auto &own = nats(plan), &plain = nats(plain_);
    double sum = 0;
    int64_t tokens = 0;
    for (size_t i = 0; i < units; ++i) {
      sum += own[order_[i]] - plain[order_[i]];
      tokens += search_.tokens[order_[i]];
    }
    return sum / static_cast<double>(tokens);
  }

  void halve(std::vector<std::string> alive) {
    const size_t all = order_.size();
    for (size_t share = kFirstShare;; share /= 2) {
      const size_t units = (all + share - 1) / share;
      measure(alive, units);
      if (stopped_) return;
      if (share == 1) break;
      std::ranges::stable_sort(alive, {},
                               [&](const auto& plan) { return difference(plan, units); });
      alive.resize(std::min(alive.size(), std::max(alive.size() / 2, kFewest)));
    }
    whole_.insert(whole_.end(), alive.begin(), alive.end());
    const auto ranked = ranking();
    progress_.best = ranked.empty() ? "" : ranked.front().plan;
    progress_.gain = ranked.empty() ? 0 : -ranked.front().difference;
  }

  void measure(const std::vector<std::string>& plans, size_t units) {
    for (size_t i = 0; i < units && !stopped_; ++i) {
      progress_.plans = looked_at();
      progress_.unit = static_cast<int64_t>(i);
      progress_.units = static_cast<int64_t>(units);
      if (search_.progress) search_.progress(progress_);
      const size_t unit = order_[i];
      std::vector<std::string> missing;
      if (std::isnan(nats(plain_)[unit])) missing.push_back(plain_);
      for (const std::string& plan : plans)
        if (std::isnan(nats(plan)[unit])) missing.push_back(plan);
      if (missing.empty()) continue;
      const std::vector<double> found = search_.measure(unit, missing);
      stopped_ = found.empty();
      if (stopped_) return;
      REPRISE_CHECK(found.size() == missing.size());
      for (size_t p = 0; p < missing.size(); ++p) nats(missing[p])[unit] = found[p];
      if (!std::isfinite(nats(plain_)[unit]))
        fail("plan search: the plain depth's logits are NaN or infinite");
    }
  }

  std::vector<RankedPlan> ranking() {
    std::vector<RankedPlan> ranked;
    for (const std::string& plan : whole_)
      ranked.push_back({plan, difference(plan, order_.size())});
    std::ranges::stable_sort(ranked, {}, &RankedPlan::difference);
    return ranked;
  }

  PlanSearchResult result() {
    PlanSearchResult result;
    result.plain = plain_;
    result.looked_at = looked_at();
    result.stopped = stopped_;
    if (stopped_) return result;
    result.ranked = ranking();
    const auto& plain = nats(plain_);
    result.plain_nll = std::accumulate(plain.begin(), plain.end(), 0.0) /
                       static_cast<double>(std::accumulate(search_.tokens.begin(),
                                                           search_.tokens.end(), int64_t{0}));
    return result;
  }

  const PlanSearch& search_;
  PlanFigures& figures_;
  std::string plain_;
  std::vector<size_t> order_;
  std::set<std::string> seen_;
  std::map<std::string, PlanDraft> drafts_;
  std::vector<std::string> whole_;  // measured on all units
  PlanSearchProgress progress_;
  bool stopped_ = false;
};

}  // namespace

PlanSearchResult search_plans(const PlanSearch& search, PlanFigures& figures) {
  return Search(search, figures).run();
}

}  // namespace reprise
