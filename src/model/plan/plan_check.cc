// What a plan must hold before anything runs it.
#include <fmt/format.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "model/plan/plan.h"

namespace reprise {
namespace {

class Checker {
 public:
  Checker(const Plan& plan, int blocks, const std::string& where)
      : plan_(plan), blocks_(blocks), where_(where) {
    for (const Step& step : plan.steps)
      if (const auto* visit = std::get_if<Visit>(&step.op)) written_anywhere_.insert(visit->write);
  }

  // Steps from `first` on, where these rows have been written and these registers saved.
  void run(size_t first, std::set<int> written, std::set<int> saved) {
    written_ = std::move(written);
    saved_ = std::move(saved);
    bool after_visit = false;  // a Mix needs the visit right before it
    for (at_ = first; at_ < plan_.steps.size(); ++at_) {
      const auto& op = plan_.steps[at_].op;
      if (const auto* mix = std::get_if<Mix>(&op); mix && !after_visit)
        bad("a mix must follow a visit");
      std::visit([this](const auto& step) { check(step); }, op);
      after_visit = std::holds_alternative<Visit>(op);
    }
  }

  // What is known at each loop end with a coda: the coda must get along with it.
  struct Exit {
    size_t coda;
    std::set<int> written, saved;
  };
  const std::vector<Exit>& exits() const { return exits_; }

 private:
  [[noreturn]] void bad(const std::string& what) const {
    fail("{}: step {}: {}", where_, at_, what);
  }
  bool has_row(int row) const { return row >= 0 && row < static_cast<int>(plan_.kv_rows.size()); }
  void check_register(int reg) const {
    if (reg < 0 || reg >= plan_.registers)
      bad(fmt::format("register {}, but the plan declares {}", reg, plan_.registers));
  }
  void check_saved(int reg, const char* what) const {
    if (!saved_.contains(reg)) bad(fmt::format("register {} is {} before it is saved", reg, what));
  }

  void check(const Visit& visit) {
    if (visit.block < 0 || visit.block >= blocks_)
      bad(fmt::format("block {} does not exist, the model has blocks 0 to {}", visit.block,
                      blocks_ - 1));
    if (!has_row(visit.read) || (visit.write != -1 && !has_row(visit.write)))
      bad(fmt::format("KV rows {} and {}, but the plan declares {}", visit.read, visit.write,
                      plan_.kv_rows.size()));
    if (visit.write >= 0 && !written_.insert(visit.write).second)
      bad(fmt::format("KV row {} is written a second time", visit.write));
    if (visit.past ? !written_anywhere_.contains(visit.read) : !written_.contains(visit.read))
      bad(fmt::format("KV row {} is read {}", visit.read,
                      visit.past ? "but never written" : "before it is written"));
    if (visit.deepest != -1 &&
        (!has_row(visit.deepest) || written_anywhere_.contains(visit.deepest)))
      bad(fmt::format("KV row {} of the deepest entries: expected one that no visit writes",
                      visit.deepest));
  }
  void check(const Mix& mix) const {
    if (!(mix.skip_below >= 0 && mix.skip_below <= 1))
      bad(fmt::format("tokens are skipped below {}, expected 0 to 1", mix.skip_below));
  }
  void check(const Save& save) {
    check_register(save.reg);
    saved_.insert(save.reg);
  }
  void check(const Combine& combine) const { check_saved(combine.reg, "combined"); }
  void check(const Add& add) const { check_saved(add.reg, "added"); }
  void check(const Inject& inject) const {
    check_saved(inject.reg, "injected");
    if (inject.index < 0) bad(fmt::format("injection {} does not exist", inject.index));
  }
  void check(const Norm&) const {}
  void check(const Initial& initial) const {
    if (initial.index < 0) bad(fmt::format("initial state {} does not exist", initial.index));
    if (!(initial.scale >= 0 && std::isfinite(initial.scale)))
      bad(fmt::format("an initial state is scaled by {}, expected 0 or more", initial.scale));
  }
  void check(const Carry&) const {}
  void check(const LoopEnd& end) {
    if (end.coda == -1) return;
    if (end.coda <= static_cast<int>(at_) || end.coda > static_cast<int>(plan_.steps.size()))
      bad(fmt::format("the coda begins at step {}, expected one behind the loop end", end.coda));
    exits_.push_back({static_cast<size_t>(end.coda), written_, saved_});
  }

  const Plan& plan_;
  int blocks_;
  const std::string& where_;
  size_t at_ = 0;
  std::set<int> written_anywhere_, written_, saved_;
  std::vector<Exit> exits_;
};

}  // namespace

void Plan::check(int blocks, const std::string& where) const {
  if (steps.empty()) fail("{}: the plan has no steps", where);
  Checker whole(*this, blocks, where);
  whole.run(0, {}, {});
  for (const Checker::Exit& exit : whole.exits())
    Checker(*this, blocks, where + ", after an exit").run(exit.coda, exit.written, exit.saved);
}

}  // namespace reprise
