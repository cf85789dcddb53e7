// Looks for a plan under which a text is more likely than at the plain depth. Many plans are looked
// at on a few units of the text (windows, questions) and the better half of them on twice as many, up
// to all (successive halving, Jamieson and Talwalkar, arXiv 1502.07943); then plans around the best
// ones and joins of them in the same way, until none is better or the budget is spent.
//
// What a search does depends on its options and on the figures alone, and figures that are known are
// not measured again: one that was interrupted goes on where it was when its figures were kept.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace reprise {

// By plan its sums of -log p by unit, in nats; NaN: not measured.
using PlanFigures = std::map<std::string, std::vector<double>>;

struct PlanSearchProgress {
  int round = 1;
  int plans = 0;                // looked at so far
  int64_t unit = 0, units = 0;  // of this step of the halving
  std::string best;             // on all units, "" as long as there is none
  double gain = 0;              // nats per token that it is better than the plain depth
};

struct PlanSearch {
  int blocks = 0;
  int keep = 0;                         // blocks in front that no plan visits otherwise
  int budget = 200;                     // plans
  std::vector<std::string> tried = {};  // plans to look at in any case
  std::vector<int64_t> tokens;          // by unit, > 0: predictions in its sums

  // The sums of one unit by plan. Empty: the search is to stop.
  std::function<std::vector<double>(size_t unit, const std::vector<std::string>& plans)> measure;
  std::function<void(const PlanSearchProgress&)> progress = {};
};

struct RankedPlan {
  std::string plan;
  double difference = 0;  // from the plain depth, nats per token on all units; below 0: better
};

struct PlanSearchResult {
  std::string plain;               // the plain depth as a plan
  double plain_nll = 0;            // nats per token
  std::vector<RankedPlan> ranked;  // those measured on all units, the best first; not the plain one
  int looked_at = 0;
  bool stopped = false;
};

// Figures that `figures` has are taken from there, new ones put there. Throws Error where the plain
// depth's are not finite.
PlanSearchResult search_plans(const PlanSearch& search, PlanFigures& figures);

}  // namespace reprise
