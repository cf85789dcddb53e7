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
      if (cohort->mode() == Mode::KvOnly) {
        some_leave_out_ = true;
      } else {
        REPRISE_CHECK(rows_.attending == total_, "rows that attend behind rows that don't");
        rows_.attending += n;
      }
      for (size_t i = 0; i < cohort->rows().segments.size(); ++i)
        add_segment(cohort->rows(), i, visit, spec);
      first_segment_ = static_cast<int>(rows_.segments.size());
      total_ += n;
    }
  }

  // From here on a row concerns nobody but itself: those that go on behind attention.
  void add_active(const Cohort& cohort, bool some_skip, std::span<const int32_t> active) {
    const int64_t n = cohort.rows().size();
    if (cohort.mode() != Mode::KvOnly) {
      if (some_skip) {
        for (const int32_t row : active) active_.push_back(row + static_cast<int32_t>(at_));
        some_leave_out_ = true;
      } else {
        for (int64_t row = at_; row < at_ + n; ++row) active_.push_back(static_cast<int32_t>(row));
      }
    }
    at_ += n;
  }

  void add_adapters(const Cohort& cohort, std::span<const int32_t> by_row) {
    const auto n = static_cast<size_t>(cohort.rows().size());
    if (by_row.empty())
      adapters_.insert(adapters_.end(), n, cohort.visit()->adapter);
    else
      adapters_.insert(adapters_.end(), by_row.begin(), by_row.end());
  }

  // Once everything was added.
  VisitRows& finish(Tensor angles) {
    rows_.angles = std::move(angles);
    const bool any = std::any_of(adapters_.begin(), adapters_.end(), [](int32_t a) { return a >= 0; });
    if (any) rows_.adapters = std::move(adapters_);
    if (some_leave_out_) rows_.active = std::move(active_);
    rows_.all_active = !some_leave_out_;
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
      const auto row_of = [&](int number) {
        KvRow& row = segment.sequence->kv[number];
        if (row.filled() == 0) row.spec = spec;
        return &row;
      };
      if (visit.write >= 0) entry.write = row_of(visit.write);
      entry.read = row_of(visit.read);
      entry.own_entries = visit.past;
    }
    rows_.attention.push_back(entry);
    rows_.segments.push_back({segment.sequence, entry.first_row, segment.rows, entry.prefix,
                              positions.empty() ? 0 : positions[0], visit.write});
  }

  VisitRows rows_;
  std::vector<int32_t> adapters_, active_;
  bool some_leave_out_ = false;
  int64_t total_ = 0, at_ = 0;
  int first_segment_ = 0;
};

}  // namespace

std::unique_ptr<Cohort> Runner::start(const Plan& plan, Rows rows, Tensor x,
                                      Observer* observer) const {
  REPRISE_CHECK(x.rank() == 2 && x.dim(1) == model_.config().text.d);
  auto cohort = std::make_unique<Cohort>(plan, std::move(rows), std::move(x));
  cohort->observer_ = observer;
  for (const RowSegment& segment : cohort->rows().segments)
    if (segment.sequence) segment.sequence->length += segment.rows;
  cohort->enlist(nullptr);
  try {
    cohort->angles_ = model_.rope_angles(cohort->rows());
    cohort->row_adapters_ = model_.scheme().row_adapters(cohort->rows());
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
  const auto rope = static_cast<size_t>(
      model_.config().text.blocks[static_cast<size_t>(block)].rope);
  std::vector<Tensor> states, angles;
  for (const Cohort* cohort : cohorts) {
    joined.add_active(*cohort, cohort->some_skip_, cohort->active_);
    joined.add_adapters(*cohort, cohort->row_adapters_);
    states.push_back(cohort->x_);
    angles.push_back(cohort->angles_[rope]);
  }
  const bool one = cohorts.size() == 1;
  VisitRows& rows = joined.finish(one ? angles[0] : be.concat(angles, 0));
  rows.watch = one && cohorts[0]->mode() != Mode::KvOnly
                   ? Watch(cohorts[0]->observer_, cohorts[0]->plan(), cohorts[0]->step())
                   : Watch();
  const Tensor out = model_.run_block(block, rows, one ? states[0] : be.concat(states, 0),
                                      cohorts[0]->shared_rows());
  int64_t first = 0;
  for (Cohort* cohort : cohorts) {
    const int64_t n = cohort->rows().size();
    const Tensor before = cohort->x_;
    if (cohort->mode() != Mode::KvOnly) cohort->x_ = one ? out : be.slice(out, 0, first, first + n);
    first += n;
    if (cohort->mode() != Mode::KvOnly)
      Watch(cohort->observer_, cohort->plan(), cohort->step_).step(before, cohort->x_);
    ++cohort->step_;
    advance(*cohort);
  }
}

void Runner::prepare_visit(Cohort& cohort) const {
  const Mix* mix = mix_behind(cohort);
  cohort.some_skip_ = false;
  cohort.active_.clear();
  if (!mix) return;
  Backend& be = model_.backend();
  cohort.before_ = cohort.x_;
  cohort.weight_ = model_.scheme().mix_weight(be, *mix, cohort.x_);
  if (!mix->skips()) return;
  cohort.active_ = active_rows(*mix, cohort.rows(), be.to_host(cohort.weight_));
  cohort.some_skip_ = static_cast<int64_t>(cohort.active_.size()) < cohort.rows().size();
}

void Runner::advance(Cohort& cohort) const {
  Backend& be = model_.backend();
  const Scheme& scheme = model_.scheme();
  for (; !cohort.done(); ++cohort.step_) {
    const Step& step = cohort.plan().steps[cohort.step_];
    if (cohort.visit()) return prepare_visit(cohort);
    if (cohort.loop_end()) {
      if (cohort.mode() == Mode::Live) return;
      if (cohort.mode() == Mode::Deferred && cohort.loop_end()->norm)
        cohort.x_ = model_.final_norm(cohort.x_);
      continue;
    }
    if (cohort.mode() == Mode::KvOnly) continue;  // the exit state, whatever the depth
    const auto kept = [&](int reg) -> Tensor& {
      return cohort.registers_[static_cast<size_t>(reg)];
    };
    const Tensor before = cohort.x_;
    const Watch watch(cohort.observer_, cohort.plan(), cohort.step_);
    if (std::holds_alternative<Mix>(step.op)) {
      watch.value("mix_w", cohort.weight_);
      cohort.x_ = be.lerp(cohort.before_, cohort.x_, cohort.weight_);
      cohort.before_ = cohort.weight_ = Tensor();
    } else if (const auto* save = std::get_if<Save>(&step.op)) {
      kept(save->reg) = cohort.x_;
    } else if (const auto* combine = std::get_if<Combine>(&step.op)) {
      const Tensor& from = kept(combine->reg);
      cohort.x_ = be.add(from, be.add(cohort.x_, from, -1.0f), combine->alpha);
    } else if (const auto* add = std::get_if<Add>(&step.op)) {
      cohort.x_ = be.add(cohort.x_, kept(add->reg), add->scale);
    } else if (const auto* inject = std::get_if<Inject>(&step.op)) {
      cohort.x_ = scheme.inject(be, inject->index, cohort.x_, kept(inject->reg));
    } else if (const auto* norm = std::get_if<Norm>(&step.op)) {
      cohort.x_ = norm->index < 0 ? model_.final_norm(cohort.x_)
                                  : scheme.step_norm(be, norm->index, cohort.x_);
    } else if (const auto* initial = std::get_if<Initial>(&step.op)) {
      cohort.x_ = scheme.initial_state(be, initial->index, cohort.rows());
    }
    watch.step(before, cohort.x_);
  }
}

void Runner::pass(Cohort& cohort) const {
  const LoopEnd* end = cohort.loop_end();
  REPRISE_CHECK(end, "no loop end to pass");
  const Tensor before = cohort.x_;
  if (end->norm) cohort.x_ = model_.final_norm(cohort.x_);
  Watch(cohort.observer_, cohort.plan(), cohort.step_).step(before, cohort.x_);
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
  Backend& be = model_.backend();
  Rows rows[2];  // those that stay, those that go
  std::vector<int32_t> from[2];
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t side = std::binary_search(segments.begin(), segments.end(), i) ? 1 : 0;
    RowSegment segment = all[i];
    REPRISE_CHECK(segment.prefix < 0, "segments with a prefix belong together");
    for (int64_t r = segment.first_row; r < segment.first_row + segment.rows; ++r) {
      const auto row = static_cast<size_t>(r);
      from[side].push_back(static_cast<int32_t>(r));
      rows[side].positions.push_back(cohort.rows().positions[row]);
      if (!cohort.rows().is_image.empty())
        rows[side].is_image.push_back(cohort.rows().is_image[row]);
    }
    segment.first_row = rows[side].size() - segment.rows;
    rows[side].segments.push_back(segment);
  }
  const auto part = [&](const Tensor& x, size_t side) {
    return x ? be.gather_rows(x, from[side]) : x;
  };
  const auto fill = [&](Cohort& to, size_t side) {
    to.step_ = cohort.step_;
    to.end_ = cohort.end_;
    for (size_t i = 0; i < to.registers_.size(); ++i)
      to.registers_[i] = part(cohort.registers_[i], side);
    to.before_ = part(cohort.before_, side);
    to.weight_ = part(cohort.weight_, side);
    to.some_skip_ = false;
    to.active_.clear();
    for (size_t i = 0; i < from[side].size(); ++i)
      if (std::binary_search(cohort.active_.begin(), cohort.active_.end(), from[side][i]))
        to.active_.push_back(static_cast<int32_t>(i));
    to.some_skip_ = cohort.some_skip_ && to.active_.size() < from[side].size();
    if (!cohort.row_adapters_.empty())
      for (const int32_t row : from[side])
        to.row_adapters_.push_back(cohort.row_adapters_[static_cast<size_t>(row)]);
    for (const Tensor& angles : cohort.angles_) to.angles_.push_back(part(angles, side));
  };
  auto gone = std::make_unique<Cohort>(cohort.plan(), std::move(rows[1]), part(cohort.x_, 1),
                                       cohort.mode());
  fill(*gone, 1);
  Cohort stays(cohort.plan(), std::move(rows[0]), part(cohort.x_, 0), cohort.mode());
  fill(stays, 0);

  gone->enlist(&cohort);
  for (const RowSegment& segment : gone->rows().segments)
    if (segment.sequence) std::erase(segment.sequence->under_way, &cohort);
  cohort.rows_ = std::move(stays.rows_);
  stays.rows_ = std::make_shared<const Rows>();
  cohort.x_ = stays.x_;
  cohort.registers_ = std::move(stays.registers_);
  cohort.before_ = stays.before_;
  cohort.weight_ = stays.weight_;
  cohort.some_skip_ = stays.some_skip_;
  cohort.active_ = std::move(stays.active_);
  cohort.row_adapters_ = std::move(stays.row_adapters_);
  cohort.angles_ = std::move(stays.angles_);
  return gone;
}

std::unique_ptr<Cohort> Runner::leave(Cohort& cohort, ExitKv policy) const {
  const LoopEnd* end = cohort.loop_end();
  REPRISE_CHECK(end && cohort.mode() == Mode::Live, "no loop end to leave at");
  const size_t here = cohort.step_;
  const size_t next = end->coda < 0 ? cohort.end_ : static_cast<size_t>(end->coda);
  std::unique_ptr<Cohort> rest;
  if (policy == ExitKv::Share) {
    share(cohort, next);
  } else {
    const auto& steps = cohort.plan().steps;
    const bool deeper =
        std::any_of(steps.begin() + static_cast<std::ptrdiff_t>(here),
                    steps.begin() + static_cast<std::ptrdiff_t>(next),
                    [](const Step& step) { return std::holds_alternative<Visit>(step.op); });
    if (deeper) {
      rest = std::make_unique<Cohort>(
          cohort.plan(), cohort.rows(), cohort.x_,
          policy == ExitKv::Propagate ? Mode::KvOnly : Mode::Deferred);
      rest->step_ = here;
      rest->end_ = next;
      rest->registers_ = cohort.registers_;
      rest->row_adapters_ = cohort.row_adapters_;
      rest->angles_ = cohort.angles_;
      rest->enlist(&cohort);
    }
  }
  const Tensor before = cohort.x_;
  Watch(cohort.observer_, cohort.plan(), cohort.step_).step(before, cohort.x_);
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
    if (from == row_of.end())
      fail("exit KV 'share': block {} is not visited before the exit, so it has no entries to share",
           visit->block);
    for (const RowSegment& segment : cohort.rows().segments) {
      if (!segment.sequence) continue;
      auto& kv = segment.sequence->kv;
      KvRow& to = kv[visit->write];
      if (to.filled() == 0) to.spec = model_.kv_spec();
      const auto positions =
          std::span(cohort.rows().positions)
              .subspan(static_cast<size_t>(segment.first_row), static_cast<size_t>(segment.rows));
      model_.backend().alias_kv(kv.at(from->second), positions, to);
    }
  }
}

void Runner::roll_back(std::unique_ptr<Cohort> cohort) {
  const std::shared_ptr<const Rows> rows = cohort->shared_rows();
  for (const RowSegment& segment : rows->segments)
    if (segment.sequence)
      segment.sequence->truncate(rows->positions[static_cast<size_t>(segment.first_row)]);
  cohort.reset();
}

}  // namespace reprise
