#include "engine/serve/crew.h"

#include <algorithm>
#include <numeric>

#include "engine/early_exits.h"

namespace reprise {

std::vector<int32_t> Group::wanted() const {
  std::vector<int32_t> rows;
  if (work == Work::Decode) {
    rows.resize(static_cast<size_t>(cohort->rows().size()));
    std::iota(rows.begin(), rows.end(), 0);
  } else if (ends_prompt() && first().answer.tokens().empty()) {
    rows.push_back(static_cast<int32_t>(cohort->rows().size() - 1));
  }
  return rows;
}

bool Group::ends_prompt() const {
  return work == Work::Prompt && cohort->rows().positions.back() + 1 == first().prompt_size();
}

bool Group::to_be_judged() const {
  // Advance leaves no others at one.
  return (work == Work::Decode || work == Work::Prompt) && cohort->loop_end() != nullptr;
}

void Crew::start(Group::Work work, const Plan& plan, std::span<Live* const> owners, int64_t count,
                 Tensor x) {
  Rows rows;
  for (Live* live : owners) {
    const int64_t end = live->sequence.length + count;
    rows.append(live->sequence, count, std::max(end, live->prompt_size()));
  }
  const TokenPrompt& prompt = owners[0]->request.prompt;
  if (work == Group::Work::Prompt && !prompt.is_image.empty()) {
    const auto begin = prompt.is_image.begin() + owners[0]->sequence.length;
    rows.is_image.assign(begin, begin + count);
  }
  groups_.push_back({work,
                     runner_.start(plan, std::move(rows), std::move(x)),
                     {owners.begin(), owners.end()},
                     {}});
  advance(groups_.back());
}

void Crew::advance(Group& group) {
  while (const LoopEnd* end = group.cohort->loop_end()) {
    const Live& live = group.first();
    const bool last = end->loop + 1 == group.cohort->plan().loops();
    if (live.rule && group.work != Group::Work::Rest) {
      const std::vector<int32_t> wanted = group.wanted();
      if (group.work == Group::Work::Rerun) {
        // Runs of tokens are cut where exits differ.
        const int64_t token = group.cohort->rows().positions[0] - live.prompt_size();
        const bool leaves = live.exits[static_cast<size_t>(token)] == end->loop;
        if (leaves && !last && !live.selects()) {
          part(group, {0});
          return;
        }
      } else if (group.work == Group::Work::Prompt && live.prompt_leaves) {
        if (live.answer.tokens().empty()) {
          if (!last) return;
        } else if (live.prompt_left == end->loop) {
          part(group, {0});
          return;
        }
      } else if (group.work == Group::Work::Prompt ? judges_prompts(model_, live.rule->config())
                                                   : live.selects()) {
        if (!wanted.empty())
          group.ends.push_back(model_.backend().gather_rows(group.cohort->state(), wanted));
      } else if (group.work == Group::Work::Decode && !last) {
        return;
      }
    }
    runner_.pass(*group.cohort);
  }
}

std::vector<Group*> Crew::waiting(int block) {
  std::vector<Group*> together;
  for (Group& group : groups_) {
    const Visit* visit = group.cohort->visit();
    if (!visit || visit->block != block || !runner_.ready(*group.cohort)) continue;
    if (group.first().alone) return {&group};
    together.push_back(&group);
  }
  return together;
}

void Crew::visit(std::span<Group* const> groups) {
  std::vector<Cohort*> cohorts;
  for (const Group* group : groups) cohorts.push_back(group->cohort.get());
  runner_.visit(cohorts);
  for (Group* group : groups) advance(*group);
}

std::vector<Group*> Crew::to_be_judged() {
  std::vector<Group*> list;
  for (Group& group : groups_)
    if (group.to_be_judged()) list.push_back(&group);
  return list;
}

Group* Crew::part(Group& group, const std::vector<size_t>& leave) {
  Group* gone = nullptr;
  if (leave.size() == group.owners.size()) {
    gone = &group;
  } else if (!leave.empty()) {
    Group part;
    part.work = group.work;
    part.cohort = runner_.split(*group.cohort, leave);
    for (const size_t i : leave) part.owners.push_back(std::exchange(group.owners[i], nullptr));
    std::erase(group.owners, nullptr);
    groups_.push_back(std::move(part));
    gone = &groups_.back();
  }
  if (gone != &group) {
    runner_.pass(*group.cohort);
    advance(group);
  }
  if (!gone) return nullptr;
  if (auto rest = runner_.leave(*gone->cohort, gone->first().rule->config().kv); rest)
    if (!rest->done()) groups_.push_back({Group::Work::Rest, std::move(rest), gone->owners, {}});
  advance(*gone);
  return gone;
}

std::list<Group> Crew::take_done() {
  std::list<Group> done;
  for (auto it = groups_.begin(); it != groups_.end();) {
    const auto here = it++;
    if (here->cohort->done()) done.splice(done.end(), groups_, here);
  }
  return done;
}

void Crew::remove(const Live& live) {
  for (auto it = groups_.begin(); it != groups_.end();) {
    Group& group = *it;
    std::vector<size_t> segments;
    std::vector<int32_t> stay;  // of a decode group, for its ends
    for (size_t i = 0; i < group.owners.size(); ++i) {
      if (group.owners[i] == &live)
        segments.push_back(i);
      else
        stay.push_back(static_cast<int32_t>(i));
    }
    if (stay.empty()) {
      it = groups_.erase(it);
      continue;
    }
    if (!segments.empty()) {
      runner_.split(*group.cohort, segments).reset();
      std::erase(group.owners, &live);
      for (Tensor& end : group.ends) end = model_.backend().gather_rows(end, stay);
    }
    ++it;
  }
}

void Crew::discard(std::span<Group* const> groups) {
  groups_.remove_if([&](const Group& group) {
    return std::find(groups.begin(), groups.end(), &group) != groups.end();
  });
}

bool Crew::any_live() const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [](const Group& group) { return group.work != Group::Work::Rest; });
}

}  // namespace reprise
