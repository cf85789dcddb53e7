#include "model/run/cohort.h"

#include <algorithm>

#include "base/error.h"

namespace reprise {

RowStates RowStates::part(Backend& be, std::span<const int32_t> from) const {
  const auto rows_of = [&](const Tensor& all) { return all ? be.gather_rows(all, from) : all; };
  RowStates part = {.x = rows_of(x), .before = rows_of(before), .weight = rows_of(weight)};
  for (const Tensor& reg : registers) part.registers.push_back(rows_of(reg));
  for (const Tensor& angle : angles) part.angles.push_back(rows_of(angle));
  for (size_t i = 0; i < from.size(); ++i) {
    if (std::binary_search(active.begin(), active.end(), from[i]))
      part.active.push_back(static_cast<int32_t>(i));
    if (!row_adapters.empty())
      part.row_adapters.push_back(row_adapters[static_cast<size_t>(from[i])]);
  }
  part.some_skip = some_skip && part.active.size() < from.size();
  return part;
}

Cohort::Cohort(const Plan& plan, Rows rows, Tensor x, Mode mode)
    : plan_(&plan),
      writers_(plan.writers()),
      rows_(std::make_shared<const Rows>(std::move(rows))),
      mode_(mode),
      end_(plan.steps.size()),
      states_{.x = std::move(x),
              .registers = std::vector<Tensor>(static_cast<size_t>(plan.registers))} {
  REPRISE_CHECK(states_.x.rank() == 2 && states_.x.dim(0) == rows_->size(),
                "a state of {} for {} rows", shape_string(states_.x.shape()), rows_->size());
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

int Cohort::loop_ends_left() const {
  int left = 0;
  for (size_t i = step_; i < end_; ++i) left += std::holds_alternative<LoopEnd>(plan_->steps[i].op);
  return left;
}

bool Cohort::will_write(int row) const {
  if (row < 0 || static_cast<size_t>(row) >= writers_.size()) return false;
  const int writer = writers_[static_cast<size_t>(row)];
  return writer >= 0 && static_cast<size_t>(writer) >= step_ && static_cast<size_t>(writer) < end_;
}

}  // namespace reprise
