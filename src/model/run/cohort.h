// A cohort: rows with one plan, one place in it and one mode. It is the unit that a scheduler moves:
// cohorts that stand before a visit of the same block run it together (runner.h), whatever request,
// loop, prompt chunk or plan their rows belong to.
#pragma once

#include <memory>
#include <vector>

#include "model/run/observer.h"
#include "model/run/rows.h"

namespace reprise {

enum class Mode {
  Live,      // runs towards its logits
  Deferred,  // tokens that have left: runs the deeper steps only for their keys and values
  KvOnly,    // tokens that have left: each deeper visit projects the exit state to keys and values
  Probe,     // what tokens would come to if they left: nothing of it stays
};

// What a cohort knows of each of its rows at the step it stands before.
struct RowStates {
  Tensor x;                       // [rows, d]
  std::vector<Tensor> registers;  // [rows, d] each, or empty: not saved yet
  // For the Mix behind the visit it stands before: that visit's input, its weight, and the rows that
  // make the visit as a whole where others leave it out.
  Tensor before, weight;
  bool some_skip = false;
  std::vector<int32_t> active;
  // By row, for schemes whose adapters follow the kind of token; empty: the visit's own.
  std::vector<int32_t> row_adapters;
  std::vector<Tensor> angles;  // by rope of the config, [rows, 2 m] each

  // Those of the rows `from`, ascending.
  RowStates part(Backend& be, std::span<const int32_t> from) const;
};

class Cohort {
 public:
  // The plan must outlive the cohort; the state x is [rows, d]. Sequences' lengths advance by their
  // rows. Made by Runner::start.
  Cohort(const Plan& plan, Rows rows, Tensor x, Mode mode = Mode::Live);
  ~Cohort();
  Cohort(const Cohort&) = delete;
  Cohort& operator=(const Cohort&) = delete;

  const Plan& plan() const { return *plan_; }
  const Rows& rows() const { return *rows_; }
  // They outlive the cohort where somebody holds them (gradient checkpointing).
  const std::shared_ptr<const Rows>& shared_rows() const { return rows_; }
  Mode mode() const { return mode_; }
  // Index of the step it stands before: a Visit, a LoopEnd, or end().
  size_t step() const { return step_; }
  size_t end() const { return end_; }
  bool done() const { return step_ >= end_; }
  // The step it stands before; null where that is of another kind, or where it is done.
  const Visit* visit() const;
  const LoopEnd* loop_end() const;
  const Tensor& state() const { return states_.x; }  // [rows, d]

  // Loop ends still to come, the one it stands before included.
  int loop_ends_left() const;

  // Whether KV row `row` will still get these rows' entries from this cohort.
  bool will_write(int row) const;

 private:
  friend class Runner;

  // Takes this cohort's place behind or before it in the sequences it shares.
  void enlist(const Cohort* behind);
  void delist();

  const Plan* plan_;
  std::vector<int> writers_;  // see Plan::writers
  std::shared_ptr<const Rows> rows_;
  Mode mode_;
  size_t step_ = 0;
  size_t end_;
  RowStates states_;
  Observer* observer_ = nullptr;
};

}  // namespace reprise
