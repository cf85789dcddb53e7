#include "engine/early_exits.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace reprise {

namespace {

// Row r of [rows, n] numbers.
std::span<const float> row_of(const std::vector<float>& values, size_t r, size_t rows) {
  const size_t n = values.size() / rows;
  return std::span(values).subspan(r * n, n);
}

std::vector<int64_t> row_counts(const Cohort& cohort) {
  std::vector<int64_t> counts;
  for (const RowSegment& segment : cohort.rows().segments) counts.push_back(segment.rows);
  return counts;
}

// What a rule compares the first loop's states with.
void remember_initial(const Model& model, const Cohort& cohort,
                      std::span<ExitMemory* const> memory) {
  const Initial* initial = cohort.plan().initial();
  if (!initial) return;
  Backend& be = model.backend();
  const std::vector<float> states =
      be.to_host(model.scheme().initial_state(be, *initial, cohort.rows()));
  const auto d = states.size() / static_cast<size_t>(cohort.rows().size());
  const std::vector<RowSegment>& segments = cohort.rows().segments;
  for (size_t r = 0; r < memory.size(); ++r) {
    const auto from = states.begin() + segments[r].first_row * static_cast<int64_t>(d);
    memory[r]->state.assign(from, from + segments[r].rows * static_cast<int64_t>(d));
  }
}

}  // namespace

Tensor last_rows(const Model& model, const Cohort& cohort, const Tensor& x) {
  const std::vector<RowSegment>& segments = cohort.rows().segments;
  if (static_cast<int64_t>(segments.size()) == x.dim(0)) return x;
  std::vector<int32_t> last;
  for (const RowSegment& segment : segments)
    last.push_back(static_cast<int32_t>(segment.first_row + segment.rows - 1));
  return model.backend().gather_rows(x, last);
}

Tensor judged_state(const Model& model, const Runner& runner, const ExitRule& rule,
                    const Cohort& cohort) {
  return last_rows(model, cohort, rule.reads_answers() ? runner.probe(cohort) : cohort.state());
}

std::vector<double> loop_end_scores(const Model& model, const ExitRule& rule, const Cohort& cohort,
                                    std::span<const float> logits,
                                    std::span<ExitMemory* const> memory) {
  const int loop = cohort.loop_end()->loop;
  if (!rule.reads_all_rows())
    return rule.scores(loop, last_rows(model, cohort, cohort.state()), logits, memory);
  if (loop == 0) remember_initial(model, cohort, memory);
  return rule.scores(loop, cohort.state(), logits, memory, row_counts(cohort));
}

std::vector<float> EarlyExits::logits(const Tensor& state) const {
  return model_.backend().to_host(model_.logits(model_.final_norm(state)));
}

bool judges_prompts(const Model& model, const ExitConfig& config) {
  return config.active() && (config.mode == ExitMode::Select || model.scheme().selects());
}

bool leaves_with_prompts(const Model& model, const ExitConfig& config) {
  return config.active() && config.prompts && !judges_prompts(model, config);
}

ExitSelection select_exits(const Model& model, const ExitRule& rule, std::span<const Tensor> ends) {
  Backend& be = model.backend();
  REPRISE_CHECK(std::ssize(ends) == rule.loops(), "a plan with other loops than the rule's");
  const auto n = static_cast<size_t>(ends[0].dim(0));
  const int last = rule.loops() - 1;
  ExitSelection found;
  found.loops.assign(n, last);
  found.scores.resize(n);
  std::vector<ExitMemory> memory(n);
  std::vector<ExitMemory*> of_row;
  for (ExitMemory& one : memory) of_row.push_back(&one);
  for (int loop = 0; loop < last; ++loop) {
    const Tensor& state = ends[static_cast<size_t>(loop)];
    std::vector<float> logits;
    if (rule.reads_logits()) logits = be.to_host(model.logits(model.final_norm(state)));
    const std::vector<double> scores = rule.scores(loop, state, logits, of_row);
    for (size_t r = 0; r < n; ++r) {
      found.scores[r].push_back(scores[r]);
      if (found.loops[r] == last && rule.leaves(scores[r])) found.loops[r] = loop;
    }
  }
  for (auto& scores : found.scores) scores.push_back(std::numeric_limits<double>::quiet_NaN());
  std::vector<int32_t> from;  // among the rows of all ends, one behind the other
  for (size_t r = 0; r < n; ++r)
    from.push_back(static_cast<int32_t>(static_cast<size_t>(found.loops[r]) * n + r));
  found.state = last == 0 ? ends[0] : be.gather_rows(be.concat(ends, 0), from);
  found.normed = rule.config().kind == ExitKind::Weighted ? model.expected_normed(ends)
                                                          : model.final_norm(found.state);
  return found;
}

ExitSelection EarlyExits::select(const Plan& plan, const Rows& rows, Tensor x,
                                 std::span<const int32_t> judged, Observer* observer) const {
  std::vector<Tensor> ends = model_.run(plan, rows, std::move(x), observer, /*exits=*/true).exits;
  if (std::ssize(judged) < rows.size())
    for (Tensor& end : ends) end = model_.backend().gather_rows(end, judged);
  return select_exits(model_, rule_, ends);
}

std::vector<LoopExit> EarlyExits::run_selecting(const Rows& rows, Tensor x,
                                                Observer* observer) const {
  Backend& be = model_.backend();
  std::vector<int32_t> all(static_cast<size_t>(rows.size()));
  std::iota(all.begin(), all.end(), 0);
  ExitSelection found = select(plan_, rows, std::move(x), all, observer);
  const std::vector<float> logits = be.to_host(model_.logits(found.normed));
  std::vector<LoopExit> exits(all.size());
  for (size_t r = 0; r < exits.size(); ++r) {
    const auto row = row_of(logits, r, exits.size());
    const auto at = static_cast<int64_t>(r);
    exits[r] = {.loop = found.loops[r],
                .state = be.slice(found.state, 0, at, at + 1),
                .logits = {row.begin(), row.end()},
                .scores = std::move(found.scores[r])};
  }
  return exits;
}

std::vector<LoopExit> EarlyExits::run(Rows rows, Tensor x, Observer* observer, const Plan* plan) {
  if (rule_.config().mode == ExitMode::Select) return run_selecting(rows, std::move(x), observer);
  const auto loops = static_cast<size_t>(rule_.loops());
  const std::vector<double> none(loops, std::numeric_limits<double>::quiet_NaN());
  std::vector<LoopExit> exits(rows.segments.size(), {.scores = none});
  REPRISE_CHECK(static_cast<int64_t>(exits.size()) == rows.size() || leaves_with_prompts(),
                "one token of each request");
  if (!plan) plan = &plan_;
  REPRISE_CHECK(plan->loops() == rule_.loops(), "a plan with other loops than the rule's");
  Group all;
  all.tokens.resize(exits.size());
  std::iota(all.tokens.begin(), all.tokens.end(), size_t{0});
  std::vector<Group> groups;
  std::vector<ExitMemory> memory(exits.size());
  try {
    all.cohort = runner_.start(*plan, std::move(rows), std::move(x), observer);
    groups.push_back(std::move(all));
    while (!groups.empty()) {
      Cohort& cohort = *groups.back().cohort;
      if (cohort.visit()) {
        visit(cohort);
      } else if (!cohort.done()) {
        judge(groups, exits, memory);
      } else {
        end(groups.back(), exits, memory);
        groups.pop_back();
      }
    }
  } catch (...) {
    for (Group& group : groups) Runner::roll_back(std::move(group.cohort));
    roll_back();
    throw;
  }
  return exits;
}

void EarlyExits::visit(Cohort& cohort) {
  // The first of the rest waits for nobody, so this comes to an end.
  while (!runner_.ready(cohort)) {
    REPRISE_CHECK(!rest_.empty(), "a token that waits for rows of somebody else's");
    runner_.visit(*rest_.front());
    std::erase_if(rest_, [](const auto& rest) { return rest->done(); });
  }
  const int block = cohort.visit()->block;
  std::vector<Cohort*> together = {&cohort};
  for (const auto& rest : rest_)
    if (rest.get() != &cohort && rest->visit()->block == block && runner_.ready(*rest))
      together.push_back(rest.get());
  runner_.visit(together);
  std::erase_if(rest_, [](const auto& rest) { return rest->done(); });
}

void EarlyExits::finish() {
  try {
    while (!rest_.empty()) visit(*rest_.front());
  } catch (...) {
    roll_back();
    throw;
  }
}

// Later tokens first, as Runner::roll_back wants it.
void EarlyExits::roll_back() {
  for (; !rest_.empty(); rest_.pop_back()) Runner::roll_back(std::move(rest_.back()));
}

void EarlyExits::judge(std::vector<Group>& groups, std::vector<LoopExit>& exits,
                       std::vector<ExitMemory>& memory) {
  Group& group = groups.back();
  const int loop = group.cohort->loop_end()->loop;
  for (const size_t token : group.tokens) exits[token].loop = loop;
  const bool last = loop + 1 == rule_.loops();  // it ends them all
  if (last && !rule_.reads_all_rows()) return runner_.pass(*group.cohort);

  const size_t rows = group.tokens.size();
  std::vector<ExitMemory*> of_row;
  for (const size_t token : group.tokens) of_row.push_back(&memory[token]);
  std::vector<float> logits;
  if (rule_.reads_logits())
    logits = this->logits(judged_state(model_, runner_, rule_, *group.cohort));
  const std::vector<double> scores = loop_end_scores(model_, rule_, *group.cohort, logits, of_row);
  if (last) {
    for (size_t r = 0; r < rows; ++r)
      exits[group.tokens[r]].scores[static_cast<size_t>(loop)] = scores[r];
    return runner_.pass(*group.cohort);
  }
  std::vector<size_t> leave, stay;
  for (size_t r = 0; r < rows; ++r) {
    exits[group.tokens[r]].scores[static_cast<size_t>(loop)] = scores[r];
    (rule_.leaves(scores[r]) ? leave : stay).push_back(r);
  }
  if (leave.empty()) return runner_.pass(*group.cohort);
  if (stay.empty()) {
    group.logits = std::move(logits);
  } else {
    Group gone;
    gone.cohort = runner_.split(*group.cohort, leave);
    for (const size_t r : leave) {
      gone.tokens.push_back(group.tokens[r]);
      if (logits.empty()) continue;
      const auto row = row_of(logits, r, rows);
      gone.logits.insert(gone.logits.end(), row.begin(), row.end());
    }
    std::vector<size_t> staying;
    for (const size_t r : stay) staying.push_back(group.tokens[r]);
    group.tokens = std::move(staying);
    groups.push_back(std::move(gone));
    runner_.pass(*groups[groups.size() - 2].cohort);
  }
  Group& leaving = groups.back();
  auto rest = runner_.leave(*leaving.cohort, rule_.config().kv);
  if (rest) rest_.push_back(std::move(rest));
  // Layers behind the loops are still to come.
  if (!leaving.cohort->done()) leaving.logits.clear();
}

void EarlyExits::end(Group& group, std::vector<LoopExit>& exits,
                     std::vector<ExitMemory>& memory) const {
  Backend& be = model_.backend();
  const Tensor& state = group.cohort->state();
  const size_t rows = group.tokens.size();
  const Tensor ends = last_rows(model_, *group.cohort, state);
  if (group.logits.empty()) group.logits = logits(ends);
  const std::vector<RowSegment>& segments = group.cohort->rows().segments;
  for (size_t r = 0; r < rows; ++r) {
    LoopExit& exit = exits[group.tokens[r]];
    const auto row = row_of(group.logits, r, rows);
    exit.logits.assign(row.begin(), row.end());
    const int64_t at = segments[r].first_row;
    exit.state = rows == 1 ? state : be.slice(state, 0, at, at + segments[r].rows);
    if (exit.loop + 1 < rule_.loops() || !rule_.reads_answers()) continue;
    ExitMemory* const own[] = {&memory[group.tokens[r]]};
    const auto from = static_cast<int64_t>(r);
    exit.scores.back() =
        rule_.scores(exit.loop, be.slice(ends, 0, from, from + 1), exit.logits, own)[0];
  }
}

}  // namespace reprise
