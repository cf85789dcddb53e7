// A plan as a search changes it: the plain depth with some ranges of blocks visited otherwise.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace reprise {

// The blocks first .. last.
struct PlanEdit {
  int first = 0, last = 0;
  // true: after their plain visits they are run `times` more, each for `factor` of its update. false:
  // in place of the plain visits they are run `times`, each for `factor` of its update.
  bool again = true;
  int times = 1;
  float factor = 1;
  bool operator==(const PlanEdit&) const = default;
};

// Ascending, no block in two of them.
using PlanDraft = std::vector<PlanEdit>;

// As parse_plan reads it: "0-14,10-14@0.1,15-29".
std::string plan_text(const PlanDraft& draft, int blocks);

// Every draft of one edit on a grid of lengths, places and ways, `keep` blocks in front left alone.
std::vector<PlanDraft> single_edits(int blocks, int keep);

// What lies around a draft: an end of a range moved, a factor larger or smaller, once more or less, an
// edit left out.
std::vector<PlanDraft> neighbours(const PlanDraft& draft, int blocks, int keep);

// Both drafts in one; empty where they share a block, or would be too many edits.
PlanDraft joined(const PlanDraft& a, const PlanDraft& b);

}  // namespace reprise
