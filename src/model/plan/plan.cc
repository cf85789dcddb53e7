#include "model/plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace reprise {

int Plan::add_kv_row(Lifetime lifetime) {
  kv_rows.push_back({lifetime});
  return static_cast<int>(kv_rows.size()) - 1;
}

void Plan::visit(int block, int kv, int adapter, std::string label) {
  steps.push_back({Visit{block, kv, kv, adapter}, std::move(label)});
}

void Plan::mix(const Mix& mix, std::string label) { steps.push_back({mix, std::move(label)}); }

std::string mix_tokens_name(MixTokens kind) {
  return kind == MixTokens::Image ? "image" : kind == MixTokens::Text ? "text" : "all";
}

MixTokens parse_mix_tokens(std::string_view name, const std::string& where) {
  for (const MixTokens kind : {MixTokens::All, MixTokens::Image, MixTokens::Text})
    if (name == mix_tokens_name(kind)) return kind;
  fail("{}: expected all, image or text, found '{}'", where, name);
}

void Plan::loop_end(int loop, bool norm) {
  steps.push_back({LoopEnd{loop, norm}, fmt::format("exit.{}", loop)});
}

int Plan::visits() const {
  return static_cast<int>(std::count_if(steps.begin(), steps.end(), [](const Step& step) {
    return std::holds_alternative<Visit>(step.op);
  }));
}

int Plan::unique_blocks() const {
  std::set<int> blocks;
  for (const Step& step : steps)
    if (const auto* visit = std::get_if<Visit>(&step.op)) blocks.insert(visit->block);
  return static_cast<int>(blocks.size());
}

int Plan::loops() const {
  return static_cast<int>(std::count_if(steps.begin(), steps.end(), [](const Step& step) {
    return std::holds_alternative<LoopEnd>(step.op);
  }));
}

bool Plan::shares_kv() const {
  return std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    const auto* visit = std::get_if<Visit>(&step.op);
    return visit && (visit->read != visit->write || visit->past || visit->deepest >= 0);
  });
}

bool Plan::whole_prompts() const {
  return std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    const auto* visit = std::get_if<Visit>(&step.op);
    return visit && visit->past;
  });
}

int Plan::unshared_block() const {
  const int last = loops() - 1;
  std::set<int> visited;  // blocks of which there are entries
  for (size_t i = 0; i < steps.size(); ++i) {
    if (const auto* visit = std::get_if<Visit>(&steps[i].op); visit && visit->write >= 0)
      visited.insert(visit->block);
    const auto* end = std::get_if<LoopEnd>(&steps[i].op);
    if (!end || end->loop == last) continue;  // who ran the last loop has all of them
    const size_t next = end->coda < 0 ? steps.size() : static_cast<size_t>(end->coda);
    for (size_t deeper = i; deeper < next; ++deeper) {
      const auto* visit = std::get_if<Visit>(&steps[deeper].op);
      if (visit && visit->write >= 0 && !visited.contains(visit->block)) return visit->block;
    }
  }
  return -1;
}

const Initial* Plan::initial() const {
  for (const Step& step : steps)
    if (const auto* initial = std::get_if<Initial>(&step.op)) return initial;
  return nullptr;
}

std::vector<int> Plan::writers() const {
  std::vector<int> steps_of(kv_rows.size(), -1);
  for (size_t i = 0; i < steps.size(); ++i)
    if (const auto* visit = std::get_if<Visit>(&steps[i].op))
      if (visit->write >= 0) steps_of[static_cast<size_t>(visit->write)] = static_cast<int>(i);
  return steps_of;
}

Plan dense_plan(int blocks) {
  Plan plan;
  for (int b = 0; b < blocks; ++b)
    plan.visit(b, plan.add_kv_row(), /*adapter=*/-1, fmt::format("layer.{}.out", b));
  return plan;
}

Plan looped_plan(int blocks, int loops, bool norm) {
  Plan plan;
  for (int loop = 0; loop < loops; ++loop) {
    for (int b = 0; b < blocks; ++b) {
      const int row = plan.add_kv_row();
      plan.visit(b, row, /*adapter=*/-1, fmt::format("layer.{}.out", row));
    }
    plan.loop_end(loop, norm && loop + 1 < loops);  // behind the last one the head's norm follows
  }
  return plan;
}

}  // namespace reprise
