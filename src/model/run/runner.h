// Interprets plans over cohorts. Stateless: all that changes is in the cohorts and in the sequences
// of their rows, so several threads may run one model, each with requests of its own.
//
//   auto cohort = runner.start(plan, rows, x);
//   while (!cohort->done()) {
//     if (cohort->visit()) runner.visit({{cohort.get()}});   // or together with others
//     else runner.pass(*cohort);                             // a loop end: or split, leave
//   }
//
// A row's results depend on that row alone (and what its request has kept): the same bits whatever
// runs beside it and however its request was cut into cohorts.
#pragma once

#include <memory>
#include <span>

#include "model/config/exit_config.h"
#include "model/run/cohort.h"

namespace reprise {

class Model;

// Combine's state: from + alpha (x - from).
Tensor combined(Backend& be, const Tensor& from, const Tensor& x, float alpha);

class Runner {
 public:
  // The model must outlive the runner.
  explicit Runner(const Model& model) : model_(model) {}

  // A cohort at the first visit or loop end of the plan. x: [rows, d]. Its sequences' lengths
  // advance; what is kept of their tokens is complete once the cohort is done. The observer (or
  // null) must outlive the cohort.
  std::unique_ptr<Cohort> start(const Plan& plan, Rows rows, Tensor x,
                                Observer* observer = nullptr) const;

  // Whether the visit it stands before finds all that earlier tokens of the same requests have to
  // leave in the rows it reads and writes. Always true for cohorts run one after the other.
  bool ready(const Cohort& cohort) const;

  // Runs the visit that every one of them stands before, of one and the same block (checked), and
  // goes on to each one's next visit, loop end or end. The block's weights are read once for all.
  // Each must be ready. When it throws, the cohorts' sequences have to be rolled back.
  void visit(std::span<Cohort* const> cohorts) const;
  void visit(Cohort& cohort) const {
    Cohort* const one[] = {&cohort};
    visit(one);
  }

  // Goes past the loop end it stands before.
  void pass(Cohort& cohort) const;

  // Takes these segments (ascending indices, not all) out into a cohort of their own at the same
  // place.
  std::unique_ptr<Cohort> split(Cohort& cohort, std::span<const size_t> segments) const;

  // All rows leave at the loop end they stand before: the cohort goes on to the coda or is done,
  // with state() as the exit state. What remains to be done for the depths left out, so that later
  // tokens find their entries, is the cohort returned (null where nothing is): it must be run to its
  // end, and later cohorts of the same requests wait for it where they need it (ready). Share is
  // only for plans in which every block has entries by then (Plan::unshared_block).
  std::unique_ptr<Cohort> leave(Cohort& cohort, ExitKv policy) const;

  // The state that the rows would have at the plan's end if they left at the loop end they stand
  // before, [rows, d]. The cohort and its sequences stay as they are.
  Tensor probe(const Cohort& cohort) const;

  // Undoes a cohort that can't go on (an error, a cancelled request): its sequences are as they were
  // before its tokens. Later cohorts of the same requests must have been rolled back before.
  static void roll_back(std::unique_ptr<Cohort> cohort);

 private:
  // Steps up to the next visit, loop end or end.
  void advance(Cohort& cohort) const;
  void prepare_visit(Cohort& cohort) const;
  void share(Cohort& cohort, size_t end) const;
  void keep_deepest(Cohort& cohort) const;
  void alias(Cohort& cohort, int from, int to) const;

  const Model& model_;
};

}  // namespace reprise
