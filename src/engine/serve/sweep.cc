// The rows of a sweep: who starts, who runs together, who leaves.
#include <algorithm>

#include "engine/early_exits.h"
#include "engine/serve/scheduler.h"

namespace reprise {
namespace {

// Whether tokens of both may run as one cohort from the first step to the last.
bool go_together(const Live& a, const Live& b) {
  return a.request.plans == b.request.plans && a.request.exit == b.request.exit && !a.alone &&
         !b.alone;
}

}  // namespace

bool Scheduler::may_start() const {
  switch (options_.schedule) {
    case Schedule::Sequence:
      return crew_.empty();
    case Schedule::Cohort:
      return !crew_.any_live();
    case Schedule::Depthwise:
      break;
  }
  return true;
}

void Scheduler::start_rows() {
  if (!may_start()) return;
  std::vector<Live*> all, next;
  for (const auto& live : running_) all.push_back(live.get());
  std::sort(all.begin(), all.end(),
            [](const Live* a, const Live* b) { return Admission::before(*a, *b); });
  // The most important first: what room is made for them others lose who have not started yet.
  for (Live* live : all)
    if (live->reservation && live->has_next() && !live->must_wait() && make_room(*live))
      next.push_back(live);
  start_decode(std::move(next));
  int64_t left = options_.prompt_rows;
  for (const auto& live : std::vector<Live*>(all)) {
    if (left == 0) break;
    const bool running = std::any_of(running_.begin(), running_.end(),
                                     [&](const auto& one) { return one.get() == live; });
    if (!running) continue;
    if (live->in_prompt())
      left -= start_prompt(*live, left);
    else if (live->prompt_done && live->reruns() && !live->must_wait())
      left -= start_rerun(*live, left);
  }
}

int64_t Scheduler::start_prompt(Live& live, int64_t most) {
  if (live.untouched() && !take_head(live)) return 0;
  const Plan& plan = live.prompt_plan();
  const int64_t begin = live.sequence.length, n = live.prompt_size();
  int64_t count = std::min(n - begin, most);
  if (live.whole_prompt()) {
    if (n > most && most < options_.prompt_rows) return 0;  // it comes first in another sweep
    count = n;
  }
  Live* const one[] = {&live};
  try {
    crew_.start(Group::Work::Prompt, plan, one, count,
                embed_prompt(model_, live.request.prompt, begin, begin + count));
    stats_.prompt_tokens += count;
    moved_ = true;
  } catch (const std::exception& error) {
    fault({&live}, error.what());
  }
  return std::min(count, most);
}

int64_t Scheduler::start_rerun(Live& live, int64_t most) {
  if (live.generated() == 0) end_prompt(live);
  const auto first = static_cast<size_t>(live.generated());
  const int64_t length = live.sequence.length;
  const bool one_by_one = live.one_by_one();
  const bool leaves = live.rule && !live.selects();
  const auto follows = [&](int64_t count) {  // whether one more token runs with the first `count`
    const size_t at = first + static_cast<size_t>(count);
    return count < most && !one_by_one && at < live.exits.size() &&
           (!leaves || live.exits[at] == live.exits[first]) &&
           same_rope(model_.config().text, length + 1, length + count + 1);
  };
  int64_t count = 1;
  while (follows(count)) ++count;
  Live* const one[] = {&live};
  try {
    crew_.start(
        Group::Work::Rerun, live.decode_plan(), one, count,
        model_.embed(std::span(live.answer.tokens()).subspan(first, static_cast<size_t>(count))));
    moved_ = true;
  } catch (const std::exception& error) {
    fault({&live}, error.what());
  }
  return count;
}

void Scheduler::start_decode(std::vector<Live*> next) {
  while (!next.empty()) {
    std::vector<Live*> together = {next.front()}, others;
    for (Live* live : std::span(next).subspan(1))
      (go_together(*together[0], *live) ? together : others).push_back(live);
    next = std::move(others);
    std::vector<int32_t> ids;
    for (Live* live : together) {
      if (live->generated() == 0) end_prompt(*live);
      ids.push_back(live->answer.tokens()[static_cast<size_t>(live->generated())]);
    }
    try {
      crew_.start(Group::Work::Decode, together[0]->decode_plan(), together, 1, model_.embed(ids));
      moved_ = true;
    } catch (const std::exception& error) {
      fault(std::move(together), error.what());
    }
  }
}

bool Scheduler::make_room(Live& live) {
  while (!admission_.grow(live, live.sequence.length + 1)) {
    Live* least = &live;
    for (const auto& other : running_)
      if (Admission::before(*least, *other)) least = other.get();
    if (least == &live) {
      if (running_.size() == 1) {
        // What it uses itself is the last to go.
        admission_.tree().clear();
        if (admission_.grow(live, live.sequence.length + 1)) return true;
        const KvBudget::Usage usage = admission_.usage();
        fail_one(live, fmt::format("no KV left for token {} of the request: the KV budget has {} "
                                   "bytes, {} are in use",
                                   live.sequence.length + 1, usage.limit, usage.used));
      } else {
        preempt(live);
      }
      return false;
    }
    preempt(*least);
  }
  return true;
}

void Scheduler::run_block(int block) {
  while (true) {
    const std::vector<Group*> together = crew_.waiting(block);
    if (together.empty()) return;
    ++stats_.visits;
    for (const Group* group : together) stats_.visit_rows += group->cohort->rows().size();
    moved_ = true;
    try {
      crew_.visit(together);
    } catch (const std::exception& error) {
      std::vector<Live*> whose;
      for (const Group* group : together)
        whose.insert(whose.end(), group->owners.begin(), group->owners.end());
      crew_.discard(together);
      fault(std::move(whose), error.what());
    }
  }
}

Scheduler::Leavers Scheduler::let_leave(Group& group, std::span<const float> logits) {
  const std::vector<Live*> owners = group.owners;
  const int loop = group.cohort->loop_end()->loop;
  const ExitRule& rule = *group.first().rule;
  Leavers leavers;
  moved_ = true;
  try {
    std::vector<ExitMemory*> memory;
    for (Live* live : owners) memory.push_back(&live->memory);
    const std::vector<double> scores = loop_end_scores(model_, rule, *group.cohort, logits, memory);
    for (size_t r = 0; r < owners.size(); ++r) {
      const int64_t token = owners[r]->generated() - 1;
      const auto& forced = owners[r]->request.forced_exits;
      if (forced && token >= 0 ? forced(token) > loop : !rule.leaves(scores[r])) continue;
      owners[r]->left_at = loop;
      leavers.rows.push_back(r);
    }
    leavers.group = crew_.part(group, leavers.rows);
  } catch (const std::exception& error) {
    fault(owners, error.what());
    return {};
  }
  return leavers;
}

void Scheduler::judge() {
  Backend& be = model_.backend();
  // Rules that read no logits: who leaves gets them from this sweep's head.
  for (Group* group : crew_.to_be_judged())
    if (!group->first().rule->reads_logits()) let_leave(*group, {});

  struct Result {
    Live* live;
    int loop;
    size_t row;  // of the head
  };
  std::vector<Result> results;
  std::vector<Tensor> states, selected;  // before the final norm; what the head reads
  size_t rows = 0;
  std::vector<Group*> judged;
  std::vector<size_t> first_row;  // by judged group
  for (Group* group : crew_.to_be_judged()) {
    if (!group->first().rule->reads_logits()) continue;
    try {
      states.push_back(judged_state(model_, runner_, *group->first().rule, *group->cohort));
    } catch (const std::exception& error) {
      const std::vector<Live*> owners = group->owners;
      fault(owners, error.what());
      continue;
    }
    judged.push_back(group);
    first_row.push_back(rows);
    rows += group->owners.size();
  }
  std::list<Group> done = crew_.take_done();
  std::list<Group> selecting;
  for (auto it = done.begin(); it != done.end();) {
    const auto here = it++;
    if (here->ends_prompt()) here->owners[0]->prompt_done = true;
    const std::vector<int32_t> wanted = here->wanted();
    if (wanted.empty()) continue;
    if (!here->ends.empty()) {
      selecting.splice(selecting.end(), done, here);
      continue;
    }
    states.push_back(be.gather_rows(here->cohort->state(), wanted));
    for (size_t i = 0; i < wanted.size(); ++i) {
      Live* live = here->owners[i];
      results.push_back({live, live->left_at < 0 ? live->last_loop() : live->left_at, rows++});
    }
  }
  std::vector<float> logits;
  try {
    if (!states.empty()) selected.push_back(model_.final_norm(be.concat(states, 0)));
    for (const Group& group : selecting) {
      const ExitSelection found = select_exits(model_, *group.first().rule, group.ends);
      selected.push_back(found.normed);
      for (size_t i = 0; i < found.loops.size(); ++i)
        results.push_back({group.owners[i], found.loops[i], rows++});
    }
    if (selected.empty()) return;
    logits = be.to_host(model_.logits(be.concat(selected, 0)));
  } catch (const std::exception& error) {
    std::vector<Live*> whose;
    for (const Group* group : judged)
      whose.insert(whose.end(), group->owners.begin(), group->owners.end());
    for (const Result& result : results) whose.push_back(result.live);
    for (const Group& group : selecting)
      whose.insert(whose.end(), group.owners.begin(), group.owners.end());
    done.clear();
    selecting.clear();
    return fault(std::move(whose), error.what());
  }
  ++stats_.heads;
  stats_.head_rows += static_cast<int64_t>(rows);
  const size_t vocab = logits.size() / rows;
  const auto of_row = [&](size_t row, size_t count) {
    return std::span<const float>(logits).subspan(row * vocab, count * vocab);
  };
  done.clear();
  selecting.clear();
  for (size_t g = 0; g < judged.size(); ++g) {
    const Leavers leavers = let_leave(*judged[g], of_row(first_row[g], judged[g]->owners.size()));
    if (!leavers.group || !leavers.group->cohort->done()) continue;  // or layers are still to come
    for (size_t i = 0; i < leavers.rows.size(); ++i) {
      Live* live = leavers.group->owners[i];
      results.push_back({live, live->left_at, first_row[g] + leavers.rows[i]});
    }
  }
  // Those who left now: their logits are known.
  for (const Group& group : crew_.take_done())
    if (group.ends_prompt()) group.owners[0]->prompt_done = true;
  for (const Result& result : results) {
    moved_ = true;
    deliver(*result.live, result.loop, of_row(result.row, 1));
  }
}

}  // namespace reprise
