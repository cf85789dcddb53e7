// What prompts have in common: taken before their own rows start, kept when they end.
#include <algorithm>

#include "engine/serve/scheduler.h"

namespace reprise {
namespace {

// How much a prompt may take of one that runs, once it is there; 0: it isn't to be taken from.
int64_t head_of(const Model& model, const Live& other, const Live& live) {
  // Behind its prompt it no longer has all rows; the tree has what was kept.
  if (&other == &live || other.generated() > 0 || !other.shares()) return 0;
  if (other.whole_prompt() != live.whole_prompt()) return 0;
  const int64_t tokens = shared_tokens(model, other.prompt_state(), live.prompt_state());
  if (!live.whole_prompt()) return tokens;
  const int64_t size = live.prompt_size();
  const bool equal = other.prompt_size() == size && other.request.exit == live.request.exit &&
                     tokens > 0 && common_tokens(other.request.prompt, live.request.prompt) == size;
  return equal ? size : 0;
}

}  // namespace

bool Scheduler::take_head(Live& live) {
  const PrefixTree& tree = admission_.tree();
  if (!tree.on() || !live.shares()) return true;
  const int64_t before = live.taken;
  int64_t most = std::max(before, tree.least_tokens() - 1), coming = most;
  const Sequence* from = nullptr;
  PrefixTree::Found found = admission_.find(live);
  if (found.entry && found.tokens > most) {
    from = &found.entry->sequence;
    most = found.tokens;
  }
  for (const auto& other : running_) {
    const int64_t tokens = head_of(model_, *other, live);
    if (tokens <= most) continue;
    if (!live.whole_prompt() && other->has_run(tokens)) {
      from = &other->sequence;
      most = tokens;
      found = {};
    } else if (!other->prompt_done && !other->alone && !live.alone &&
               Admission::before(*other, live)) {
      // Only for those that come first: so nobody waits in a circle, or for one that is held up by
      // others that come later.
      coming = std::max(coming, tokens);
    }
  }
  if (coming > most) return false;
  if (!from) return true;
  if (!admission_.take(live, *from, most)) {
    preempt(live);
    return false;
  }
  if (live.taken > 0 && found.entry) {
    admission_.tree().touch(found.entry);
    live.pin = found.entry->pin;
  }
  const bool whole = live.whole_prompt() && live.taken > 0;
  took(live, before);
  return !whole;
}

void Scheduler::took(Live& live, int64_t before) {
  if (live.taken <= before) return;
  moved_ = true;
  stats_.prefix_hits += before == 0;
  stats_.prefix_tokens += live.taken - before;
  if (!live.whole_prompt()) return;
  live.prompt_done = true;
  if (!live.answer.tokens().empty()) return;                // it is run again
  const PrefixTree::Entry entry = live.known_entry.lock();  // they come from nowhere else
  live.left_at = entry->whole->left_at;
  deliver(live, entry->whole->loop, entry->whole->logits);
}

void Scheduler::keep_prompt(Live& live) {
  PrefixTree& tree = admission_.tree();
  if (!tree.on() || !live.shares()) return;
  if (live.whole_prompt() && live.taken > 0) return;  // it is there
  // Of a prompt that left the deeper rows may still be to come: then it is not kept.
  if ((live.whole_prompt() && !live.whole) || !live.sequence.under_way.empty()) return;
  live.pin.reset();  // shorter than this one: of no more use
  try {
    const PrefixTree::Entry entry = tree.put(live.request.plans, live.request.prompt, live.sequence,
                                             std::exchange(live.whole, std::nullopt));
    if (entry) live.pin = entry->pin;
  } catch (const std::exception&) {
    // No memory for the copies: others compute it themselves.
  }
}

void Scheduler::keep_answer(Live& live) {
  if (!options_.prefixes.answers || !admission_.tree().on() || !live.answers_are_prompts(model_))
    return;
  TokenPrompt all = live.request.prompt;
  const auto begin = live.answer.tokens().begin();
  all.ids.insert(all.ids.end(), begin, begin + live.generated());
  if (!all.is_image.empty()) all.is_image.resize(all.ids.size());
  try {
    live.pin.reset();
    admission_.tree().put(live.request.plans, all, live.sequence);
  } catch (const std::exception&) {  // as above
  }
}

void Scheduler::end_prompt(Live& live) {
  keep_prompt(live);
  live.sequence.end_prompt(live.prompt_plan());
}

}  // namespace reprise
