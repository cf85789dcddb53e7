#include "model/run/runner.h"

#include <algorithm>

#include "base/error.h"
#include "model/model.h"

namespace reprise {
namespace {

// The rows that make the visit before a Mix as a whole; w [rows] are their mixing weights.
std::vector<int32_t> active_rows(const Mix& mix, const Rows& rows, std::span<const float> w) {
  std::vector<int32_t> active;
  for (size_t row = 0; row < w.size(); ++row) {
    const bool image = !rows.is_image.empty() && rows.is_image[row] != 0;
    const bool kind = mix.tokens == MixTokens::All || image == (mix.tokens == MixTokens::Image);
    if (kind && !(w[row] < mix.skip_below)) active.push_back(static_cast<int32_t>(row));
  }
  return active;
}

const Mix* mix_behind(const Cohort& cohort) {
  const auto& steps = cohort.plan().steps;
  if (cohort.mode() == Mode::KvOnly || cohort.step() + 1 >= cohort.end()) return nullptr;
  return std::get_if<Mix>(&steps[cohort.step() + 1].op);
}

// Rows of several cohorts as the rows of one visit.
class JoinedRows {
 public:
  // Cohorts that attend come first (checked), those that only leave keys and values behind them.
  JoinedRows(std::span<Cohort* const> cohorts, const KvSpec& spec) {
    for (const Cohort* cohort : cohorts) {
      const Visit& visit = *cohort->visit();
      const int64_t n = cohort->rows().size();
      if (cohort->mode() != Mode::KvOnly) {
        REPRISE_CHECK(rows_.attending == total_, "rows that attend behind rows that don't");
        rows_.attending += n;
      }
      for (size_t i = 0; i < cohort->rows().segments.size(); ++i)
        add_segment(cohort->rows(), i, visit, spec);
      first_segment_ = static_cast<int>(rows_.segments.size());
      total_ += n;
    }
  }

  // From here on a row concerns nobody but itself. `leaves_out`: rows that aren't in `active` don't
  // go on behind attention.
  void add_active(const Cohort& cohort, bool leaves_out, std::span<const int32_t> active) {
    const int64_t n = cohort.rows().size();
    if (cohort.mode() == Mode::KvOnly || leaves_out) list_active(at_);
    if (cohort.mode() != Mode::KvOnly) {
      if (leaves_out)
        for (const int32_t row : active) rows_.active.push_back(row + static_cast<int32_t>(at_));
      else if (!rows_.all_active)
        append_range(at_, at_ + n);
    }
    at_ += n;
  }

  // by_row: empty where all have the visit's own.
  void add_adapters(const Cohort& cohort, std::span<const int32_t> by_row) {
    const int32_t own = cohort.visit()->adapter;
    if (by_row.empty() && own < 0 && rows_.adapters.empty()) {
      plain_ += cohort.rows().size();
      return;
    }
    rows_.adapters.resize(rows_.adapters.size() + static_cast<size_t>(std::exchange(plain_, 0)),
                          -1);
    if (by_row.empty())
      rows_.adapters.insert(rows_.adapters.end(), static_cast<size_t>(cohort.rows().size()), own);
    else
      rows_.adapters.insert(rows_.adapters.end(), by_row.begin(), by_row.end());
  }

  // Once everything was added.
  VisitRows& finish(Tensor angles) {
    rows_.angles = std::move(angles);
    return rows_;
  }

 private:
  void add_segment(const Rows& rows, size_t index, const Visit& visit, const KvSpec& spec) {
    const RowSegment& segment = rows.segments[index];
    const auto positions =
        std::span(rows.positions)
            .subspan(static_cast<size_t>(segment.first_row), static_cast<size_t>(segment.rows));
    AttentionSegment entry;
    entry.first_row = segment.first_row + total_;
    entry.rows = segment.rows;
    entry.positions = positions;
    entry.prefix = segment.prefix < 0 ? -1 : segment.prefix + first_segment_;
    if (segment.sequence) {
      const auto row_of = [&](int number) { return &segment.sequence->row(number, spec); };
      if (visit.write >= 0) entry.write = row_of(visit.write);
      entry.read = row_of(visit.read);
      entry.own_entries = visit.past;
      const int64_t before = positions.empty() ? 0 : positions[0];
      if (visit.deepest >= 0 && row_of(visit.read)->filled() < before) {
        entry.read = row_of(visit.deepest);
        entry.own_entries = true;
      }
    }
    rows_.attention.push_back(entry);
    rows_.segments.push_back({segment.sequence, entry.first_row, segment.rows, entry.prefix,
                              positions.empty() ? 0 : positions[0], visit.write});
  }

  // Lists are made only where not all rows are alike: in most models they never are needed.
  void list_active(int64_t before) {
    if (std::exchange(rows_.all_active, false)) append_range(0, before);
  }
  void append_range(int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) rows_.active.push_back(static_cast<int32_t>(row));
  }

  VisitRows rows_;
  int64_t total_ = 0, at_ = 0;
  int64_t plain_ = 0;  // rows without an adapter before the first one with
  int first_segment_ = 0;
};

}  // namespace

Tensor combined(Backend& be, const Tensor& from, const Tensor& x, float alpha) {
  return be.add(from, be.add(x, from, -1.0f), alpha);
}

std::unique_ptr<Cohort> Runner::start(const Plan& plan, Rows rows, Tensor x,
                                      Observer* observer) const {
  REPRISE_CHECK(x.rank() == 2 && x.dim(1) == model_.config().text.d);
  for (const RowSegment& segment : rows.segments)
    if (!segment.sequence && plan.shares_kv())
      fail(
          "the model has visits that read other visits' keys and values; without a cache, as in "
          "training, it can't be run");
  auto cohort = std::make_unique<Cohort>(plan, std::move(rows), std::move(x));
  cohort->observer_ = observer;
  for (const RowSegment& segment : cohort->rows().segments)
    if (segment.sequence) segment.sequence->length += segment.rows;
  cohort->enlist(nullptr);
  try {
    cohort->states_.angles = model_.rope_angles(cohort->rows());
    cohort->states_.row_adapters = model_.scheme().row_adapters(cohort->rows());
    advance(*cohort);
  } catch (...) {
    roll_back(std::move(cohort));
    throw;
  }
  return cohort;
}

bool Runner::ready(const Cohort& cohort) const {
  const Visit* visit = cohort.visit();
  if (!visit) return true;
  for (const RowSegment& segment : cohort.rows().segments) {
    if (!segment.sequence) continue;
    for (const Cohort* earlier : segment.sequence->under_way) {
      if (earlier == &cohort) break;
      if (earlier->will_write(visit->read) || earlier->will_write(visit->write)) return false;
      if (visit->deepest >= 0 && earlier->mode() == Mode::Live && earlier->loop_ends_left() > 0)
        return false;
    }
  }
  return true;
}

void Runner::visit(std::span<Cohort* const> given) const {
  REPRISE_CHECK(!given.empty() && given[0]->visit(), "no visit to run");
  const int block = given[0]->visit()->block;
  std::vector<Cohort*> cohorts(given.begin(), given.end());
  for (const Cohort* cohort : cohorts)
    REPRISE_CHECK(cohort->visit() && cohort->visit()->block == block && ready(*cohort),
                  "a cohort at another block, or before entries that it needs");
  // What an observer sees are its cohort's rows alone.
  if (cohorts.size() > 1) {
    for (size_t i = 0; i < cohorts.size();) {
      if (!cohorts[i]->observer_) {
        ++i;
        continue;
      }
      visit(*cohorts[i]);
      cohorts.erase(cohorts.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (cohorts.empty()) return;
  }
  std::stable_partition(cohorts.begin(), cohorts.end(),
                        [](const Cohort* c) { return c->mode() != Mode::KvOnly; });

  Backend& be = model_.backend();
  JoinedRows joined(cohorts, model_.kv_spec());
  const int rope = model_.config().text.blocks[static_cast<size_t>(block)].rope;
  std::vector<Tensor> states, angles;
  for (const Cohort* cohort : cohorts) {
    joined.add_active(*cohort, cohort->states_.some_skip, cohort->states_.active);
    joined.add_adapters(*cohort, cohort->states_.row_adapters);
    states.push_back(cohort->states_.x);
    if (rope != kNoRope) angles.push_back(cohort->states_.angles[static_cast<size_t>(rope)]);
  }
  const bool one = cohorts.size() == 1;
  VisitRows& rows = joined.finish(angles.empty() ? Tensor()
                                  : one          ? angles[0]
                                                 : be.concat(angles, 0));
  rows.watch = one && cohorts[0]->mode() != Mode::KvOnly
                   ? Watch(cohorts[0]->observer_, cohorts[0]->plan(), cohorts[0]->step())
                   : Watch();
  const Tensor out = model_.run_block(block, rows, one ? states[0] : be.concat(states, 0),
                                      cohorts[0]->shared_rows());
  int64_t first = 0;
  for (Cohort* cohort : cohorts) {
    const int64_t n = cohort->rows().size();
    const Tensor before = cohort->states_.x;
    if (cohort->mode() != Mode::KvOnly)
      cohort->states_.x = one ? out : be.slice(out, 0, first, first + n);
    first += n;
    if (cohort->mode() != Mode::KvOnly)
      Watch(cohort->observer_, cohort->plan(), cohort->step_).step(before, cohort->states_.x);
    ++cohort->step_;
    advance(*cohort);
  }
}

void Runner::prepare_visit(Cohort& cohort) const {
  const Mix* mix = mix_behind(cohort);
  RowStates& now = cohort.states_;
  now.some_skip = false;
  now.active.clear();
  if (!mix) return;
  Backend& be = model_.backend();
  now.before = now.x;
  now.weight = model_.scheme().mix_weight(be, *mix, now.x);
  if (!mix->skips()) return;
  now.active = active_rows(*mix, cohort.rows(), be.to_host(now.weight));
  now.some_skip = static_cast<int64_t>(now.active.size()) < cohort.rows().size();
}

void Runner::advance(Cohort& cohort) const {
  Backend& be = model_.backend();
  const Scheme& scheme = model_.scheme();
  RowStates& now = cohort.states_;
  for (; !cohort.done(); ++cohort.step_) {
    const Step& step = cohort.plan().steps[cohort.step_];
    if (cohort.visit()) return prepare_visit(cohort);
    if (cohort.loop_end()) {
      if (cohort.mode() == Mode::Live) return;
      if (cohort.mode() == Mode::Deferred && cohort.loop_end()->norm)
        now.x = model_.final_norm(now.x);
      continue;
    }
    if (cohort.mode() == Mode::KvOnly) continue;  // the exit state, whatever the depth
    const auto kept = [&](int reg) -> Tensor& { return now.registers[static_cast<size_t>(reg)]; };
    const Tensor before = now.x;
    const Watch watch(cohort.observer_, cohort.plan(), cohort.step_);
    if (std::holds_alternative<Mix>(step.op)) {
      watch.value("mix_w", now.weight);
      now.x = be.lerp(now.before, now.x, now.weight);
      now.before = now.weight = Tensor();
    } else if (const auto* save = std::get_if<Save>(&step.op)) {
      kept(save->reg) = now.x;
    } else if (const auto* combine = std::get_if<Combine>(&step.op)) {
      now.x = combined(be, kept(combine->reg), now.x, combine->alpha);
    } else if (const auto* add = std::get_if<Add>(&step.op)) {
      now.x = be.add(now.x, kept(add->reg), add->scale);
    } else if (const auto* inject = std::get_if<Inject>(&step.op)) {
      now.x = scheme.inject(be, inject->index, now.x, kept(inject->reg));
    } else if (const auto* norm = std::get_if<Norm>(&step.op)) {
      now.x = norm->index < 0 ? model_.final_norm(now.x) : scheme.step_norm(be, norm->index, now.x);
    } else if (const auto* initial = std::get_if<Initial>(&step.op)) {
      now.x = scheme.initial_state(be, *initial, cohort.rows());
    } else if (const auto* carry = std::get_if<Carry>(&step.op)) {
      if (cohort.mode() == Mode::Live) scheme.carry(be, *carry, cohort.rows(), now.x);
    }
    watch.step(before, now.x);
  }
}

void Runner::pass(Cohort& cohort) const {
  const LoopEnd* end = cohort.loop_end();
  REPRISE_CHECK(end, "no loop end to pass");
  if (cohort.loop_ends_left() == 1) keep_deepest(cohort);
  const Tensor before = cohort.states_.x;
  if (end->norm) cohort.states_.x = model_.final_norm(cohort.states_.x);
  Watch(cohort.observer_, cohort.plan(), cohort.step_).step(before, cohort.states_.x);
  ++cohort.step_;
  advance(cohort);
}

std::unique_ptr<Cohort> Runner::split(Cohort& cohort, std::span<const size_t> segments) const {
  const std::vector<RowSegment>& all = cohort.rows().segments;
  REPRISE_CHECK(!segments.empty() && segments.size() < all.size() &&
                    std::adjacent_find(segments.begin(), segments.end(), std::greater_equal<>()) ==
                        segments.end() &&
                    segments.back() < all.size(),
                "segments to split off");
  Rows stay, go;
  std::vector<int32_t> stay_from, go_from;  // their rows in the cohort
  for (size_t i = 0; i < all.size(); ++i) {
    const bool goes = std::binary_search(segments.begin(), segments.end(), i);
    Rows& part = goes ? go : stay;
    std::vector<int32_t>& from = goes ? go_from : stay_from;
    RowSegment segment = all[i];
    REPRISE_CHECK(segment.prefix < 0, "segments with a prefix belong together");
    for (int64_t r = segment.first_row; r < segment.first_row + segment.rows; ++r) {
      const auto row = static_cast<size_t>(r);
      from.push_back(static_cast<int32_t>(r));
      part.positions.push_back(cohort.rows().positions[row]);
      if (!cohort.rows().is_image.empty()) part.is_image.push_back(cohort.rows().is_image[row]);
    }
    segment.first_row = part.size() - segment.rows;
    part.segments.push_back(segment);
  }
  Backend& be = model_.backend();
  RowStates stays = cohort.states_.part(be, stay_from);
  auto gone = std::make_unique<Cohort>(cohort.plan(), std::move(go),
                                       be.gather_rows(cohort.states_.x, go_from), cohort.mode());
  gone->states_ = cohort.states_.part(be, go_from);
  gone->step_ = cohort.step_;
  gone->end_ = cohort.end_;
  gone->writers_ = cohort.writers_;
  gone->enlist(&cohort);
  for (const RowSegment& segment : gone->rows().segments)
    if (segment.sequence) std::erase(segment.sequence->under_way, &cohort);
  cohort.rows_ = std::make_shared<const Rows>(std::move(stay));
  cohort.states_ = std::move(stays);
  return gone;
}

std::unique_ptr<Cohort> Runner::leave(Cohort& cohort, ExitKv policy) const {
  const LoopEnd* end = cohort.loop_end();
  REPRISE_CHECK(end && cohort.mode() == Mode::Live, "no loop end to leave at");
  const size_t here = cohort.step_;
  const size_t next = end->coda < 0 ? cohort.end_ : static_cast<size_t>(end->coda);
  std::unique_ptr<Cohort> rest;
  keep_deepest(cohort);
  if (policy == ExitKv::Missing) {
    // Nothing to be done.
  } else if (policy == ExitKv::Share) {
    share(cohort, next);
  } else {
    const auto& steps = cohort.plan().steps;
    const bool deeper =
        std::any_of(steps.begin() + static_cast<std::ptrdiff_t>(here),
                    steps.begin() + static_cast<std::ptrdiff_t>(next),
                    [](const Step& step) { return std::holds_alternative<Visit>(step.op); });
    if (deeper) {
      const bool propagate = policy == ExitKv::Propagate;
      // What goes on; a deferred cohort passes the loop end itself.
      const Tensor x =
          propagate && end->norm ? model_.final_norm(cohort.states_.x) : cohort.states_.x;
      rest = std::make_unique<Cohort>(cohort.plan(), cohort.rows(), x,
                                      propagate ? Mode::KvOnly : Mode::Deferred);
      rest->step_ = here;
      rest->end_ = next;
      rest->states_.registers = cohort.states_.registers;
      rest->states_.row_adapters = cohort.states_.row_adapters;
      rest->states_.angles = cohort.states_.angles;
      rest->enlist(&cohort);
    }
  }
  const Tensor before = cohort.states_.x;
  Watch(cohort.observer_, cohort.plan(), cohort.step_).step(before, cohort.states_.x);
  // What the cohort won't run it won't write.
  for (int& writer : cohort.writers_)
    if (writer >= static_cast<int>(here) && writer < static_cast<int>(next)) writer = -1;
  cohort.step_ = next;
  advance(cohort);
  if (rest) advance(*rest);
  return rest;
}

void Runner::share(Cohort& cohort, size_t end) const {
  const auto& steps = cohort.plan().steps;
  std::map<int, int> row_of;  // by block: what its last visit before the exit wrote
  for (size_t i = 0; i < end; ++i) {
    const auto* visit = std::get_if<Visit>(&steps[i].op);
    if (!visit || visit->write < 0) continue;
    if (i < cohort.step_) {
      row_of[visit->block] = visit->write;
      continue;
    }
    const auto from = row_of.find(visit->block);
    REPRISE_CHECK(from != row_of.end(), "block {} has no entries to share (Model::exit_problem)",
                  visit->block);
    alias(cohort, from->second, visit->write);
  }
}

// Copies of what KV row `from` has of the cohort's rows.
void Runner::alias(Cohort& cohort, int from, int to) const {
  for (const RowSegment& segment : cohort.rows().segments) {
    if (!segment.sequence) continue;
    KvRow& row = segment.sequence->row(to, model_.kv_spec());
    const auto positions =
        std::span(cohort.rows().positions)
            .subspan(static_cast<size_t>(segment.first_row), static_cast<size_t>(segment.rows));
    model_.backend().alias_kv(segment.sequence->kv.at(from), positions, row);
  }
}

// Where visits read rows of the deepest entries: those of the visits that the cohort has run.
void Runner::keep_deepest(Cohort& cohort) const {
  std::map<int, int> row_of;  // by such a row: what the last visit that reads it wrote
  for (size_t i = 0; i < cohort.step_; ++i) {
    const auto* visit = std::get_if<Visit>(&cohort.plan().steps[i].op);
    if (visit && visit->deepest >= 0) row_of[visit->deepest] = visit->write;
  }
  for (const auto& [deepest, from] : row_of) alias(cohort, from, deepest);
}

Tensor Runner::probe(const Cohort& cohort) const {
  const LoopEnd* end = cohort.loop_end();
  REPRISE_CHECK(end, "no loop end to leave at");
  if (end->coda < 0) return cohort.states_.x;
  Cohort ahead(cohort.plan(), cohort.rows(), cohort.states_.x, Mode::Probe);
  ahead.step_ = static_cast<size_t>(end->coda);
  ahead.states_.registers = cohort.states_.registers;
  ahead.states_.row_adapters = cohort.states_.row_adapters;
  ahead.states_.angles = cohort.states_.angles;
  // In front of the cohort: it will write the same rows.
  for (const RowSegment& segment : cohort.rows().segments) {
    if (!segment.sequence) continue;
    std::vector<Cohort*>& list = segment.sequence->under_way;
    list.insert(std::find(list.begin(), list.end(), &cohort), &ahead);
  }
  advance(ahead);
  while (!ahead.done()) visit(ahead);
  for (size_t i = static_cast<size_t>(end->coda); i < ahead.end_; ++i) {
    const auto* visit = std::get_if<Visit>(&cohort.plan().steps[i].op);
    if (!visit || visit->write < 0) continue;
    for (const RowSegment& segment : cohort.rows().segments) {
      if (!segment.sequence) continue;
      KvRow& row = segment.sequence->kv.at(visit->write);
      const auto first = static_cast<size_t>(segment.first_row);
      row.truncate(row.lower_bound(cohort.rows().positions[first]));
    }
  }
  return ahead.states_.x;
}

void Runner::roll_back(std::unique_ptr<Cohort> cohort) {
  const std::shared_ptr<const Rows> rows = cohort->shared_rows();
  for (const RowSegment& segment : rows->segments)
    if (segment.sequence)
      segment.sequence->truncate(rows->positions[static_cast<size_t>(segment.first_row)]);
  cohort.reset();
}

}  // namespace reprise
