#include "model/run/cohort.h"

#include <algorithm>

#include "base/error.h"

namespace reprise {

Cohort::Cohort(const Plan& plan, Rows rows, Tensor x, Mode mode)
    : plan_(&plan),
      writers_(plan.writers()),
      rows_(std::make_shared<const Rows>(std::move(rows))),
      mode_(mode),
      end_(plan.steps.size()),
      x_(std::move(x)),
      registers_(static_cast<size_t>(plan.registers)) {
  REPRISE_CHECK(x_.rank() == 2 && x_.dim(0) == rows_->size(), "a state of {} for {} rows",
                shape_string(x_.shape()), rows_->size());
}

Cohort::~Cohort() { delist(); }

void Cohort::enlist(const Cohort* behind) {
  for (const RowSegment& segment : rows_->segments) {
    if (!segment.sequence) continue;
    std::vector<Cohort*>& list = segment.sequence->under_way;
    const auto at = behind ? std::find(list.begin(), list.end(), behind) : list.end();
    list.insert(at == list.end() ? at : std::next(at), this);
  }
}

void Cohort::delist() {
  for (const RowSegment& segment : rows_->segments)
    if (segment.sequence) std::erase(segment.sequence->under_way, this);
}

const Visit* Cohort::visit() const {
  return done() ? nullptr : std::get_if<Visit>(&plan_->steps[step_].op);
}

const LoopEnd* Cohort::loop_end() const {
  return done() ? nullptr : std::get_if<LoopEnd>(&plan_->steps[step_].op);
}

bool Cohort::will_write(int row) const {
  if (row < 0 || static_cast<size_t>(row) >= writers_.size()) return false;
  const int writer = writers_[static_cast<size_t>(row)];
  return writer >= 0 && static_cast<size_t>(writer) >= step_ && static_cast<size_t>(writer) < end_;
}

}  // namespace reprise
