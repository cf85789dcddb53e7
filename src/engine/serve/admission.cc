#include "engine/serve/admission.h"

#include <algorithm>
#include <set>

namespace reprise {
namespace {

// KV rows that a request keeps beyond its prompt.
std::set<int> lasting_rows(const Live& live) {
  std::set<int> rows;
  const auto add = [&](const Plan& plan) {
    const std::vector<int> writers = plan.writers();
    for (size_t row = 0; row < writers.size(); ++row)
      if (writers[row] >= 0 && plan.kv_rows[row].lifetime == Lifetime::Request)
        rows.insert(static_cast<int>(row));
    for (const Step& step : plan.steps)
      if (const auto* visit = std::get_if<Visit>(&step.op); visit && visit->deepest >= 0)
        rows.insert(visit->deepest);
  };
  add(live.prompt_plan());
  add(live.decode_plan());
  return rows;
}

}  // namespace

void AdmissionOptions::check() const {
  if (kv_budget < 0) fail("KV budget: expected 0 bytes or more, found {}", kv_budget);
  if (most_running < 1) fail("running requests: expected 1 or more, found {}", most_running);
  if (reserve_ahead < 1) fail("tokens reserved ahead: expected 1 or more, found {}", reserve_ahead);
  if (passed_over < 0) fail("times passed over: expected 0 or more, found {}", passed_over);
}

Admission::Admission(const Model& model, const AdmissionOptions& options,
                     const PrefixOptions& prefixes)
    : options_(options),
      model_(model),
      spec_(model.kv_spec()),
      budget_(options.kv_budget > 0 ? KvBudget::make(options.kv_budget) : KvBudget::unlimited()),
      tree_(model, budget_, prefixes) {}

bool Admission::before(const Live& a, const Live& b) {
  if (a.request.priority != b.request.priority) return a.request.priority > b.request.priority;
  return a.id < b.id;
}

int64_t Admission::bytes_for(const Live& live, int64_t tokens) const {
  // Rows of the prompt alone go when it is done; the answer's tokens come after that.
  const int64_t prompt =
      kv_bytes(spec_, std::ssize(live.prompt_plan().kv_rows), live.prompt_size());
  return std::max(
      prompt - live.shared_bytes,
      kv_bytes(spec_, std::ssize(lasting_rows(live)), tokens) - live.lasting_shared_bytes);
}

int64_t Admission::with_ahead(const Live& live, int64_t tokens) const {
  const int64_t most = live.answer.rules().most_tokens();
  const int64_t ahead = tokens + options_.reserve_ahead;
  // The last token is never run.
  return most > 0 ? std::max(tokens, std::min(ahead, live.prompt_size() + most - 1)) : ahead;
}

void Admission::check_fits(const Live& live) const {
  const int64_t least = bytes_for(live, live.prompt_size() + 1);
  if (least > budget_->usage().limit)
    fail("the KV cache of a prompt of {} tokens takes {} bytes; the KV budget has {}",
         live.prompt_size(), least, budget_->usage().limit);
}

void Admission::wait(std::unique_ptr<Live> live) {
  const auto at = std::find_if(waiting_.begin(), waiting_.end(),
                               [&](const auto& other) { return before(*live, *other); });
  waiting_.insert(at, std::move(live));
}

void Admission::note_shared(Live& live, const Sequence& from, int64_t tokens) const {
  const std::set<int> lasting = lasting_rows(live);
  live.taken = tokens;
  for (const auto& [number, row] : from.kv) {
    // Full pages: no one writes to them again.
    const int64_t pages = row.lower_bound(tokens) / kKvPageTokens;
    live.shared_bytes += pages * row.spec.bytes_per_page();
    if (lasting.contains(number)) live.lasting_shared_bytes += pages * row.spec.bytes_per_page();
  }
}

PrefixTree::Found Admission::find(Live& live) {
  if (!tree_.on() || !live.shares()) return {};
  if (live.known_version != tree_.version()) {
    const PrefixTree::Found found =
        tree_.find(live.prompt_state(), live.whole_prompt() ? &live.request.exit : nullptr);
    live.known_entry = found.entry;
    live.known_tokens = found.tokens;
    live.known_version = tree_.version();
  }
  return {live.known_entry.lock(), live.known_tokens};
}

bool Admission::take(Live& live, const Sequence& from, int64_t tokens) {
  live.clear_sequence();
  note_shared(live, from, tokens);
  try {
    auto initial = live.sequence.initial;
    live.sequence = from.fork(model_.backend(), tokens, live.sequence.account);
    live.sequence.initial = std::move(initial);
  } catch (const std::exception&) {  // no memory for a copy
    live.clear_sequence();
  }
  return live.reservation->resize(bytes_for(live, live.room));
}

bool Admission::reserve(Live& live, int64_t tokens) {
  do {
    live.reservation = budget_->reserve(bytes_for(live, tokens));
    if (live.reservation) {
      live.room = tokens;
      live.sequence.account = live.reservation->account();
      return true;
    }
  } while (tree_.drop_one());
  return false;
}

bool Admission::admit(Live& live, bool alone) {
  const int64_t started = live.prompt_size() + std::ssize(live.exits);
  PrefixTree::Found head = find(live);
  if (head.entry) note_shared(live, head.entry->sequence, head.tokens);
  bool fits = reserve(live, with_ahead(live, started));
  // What it can't do without, where nobody else is there to wait for: at last without what others
  // have computed.
  if (!fits && alone) fits = reserve(live, started);
  if (!fits && alone) {
    head = {};
    live.clear_sequence();
    tree_.clear();
    fits = reserve(live, started);
  }
  if (!fits || !head.entry) {
    if (!fits) live.clear_sequence();
    return fits;
  }
  if (!take(live, head.entry->sequence, head.tokens)) {
    live.rewind();
    return false;
  }
  if (live.taken > 0) {
    tree_.touch(head.entry);
    live.pin = head.entry->pin;
  }
  return true;
}

std::unique_ptr<Live> Admission::next(size_t running) {
  if (std::ssize(waiting_) == 0 || static_cast<int64_t>(running) >= options_.most_running)
    return nullptr;
  const auto begin = [&](auto at) {
    std::unique_ptr<Live> live = std::move(*at);
    waiting_.erase(at);
    for (auto& other : waiting_)
      if (other->id < live->id) ++other->passed_over;
    return live;
  };
  auto starved = waiting_.end();
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it)
    if ((*it)->passed_over >= options_.passed_over &&
        (starved == waiting_.end() || (*it)->id < (*starved)->id))
      starved = it;
  const bool alone = running == 0;
  if (starved != waiting_.end()) return admit(**starved, alone) ? begin(starved) : nullptr;
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it)
    if (admit(**it, alone)) return begin(it);
  return nullptr;
}

bool Admission::grow(Live& live, int64_t tokens) {
  if (tokens <= live.room) return true;
  do {
    for (const int64_t room : {with_ahead(live, tokens), tokens}) {
      if (!live.reservation->resize(std::max(live.reservation->granted(), bytes_for(live, room))))
        continue;
      live.room = room;
      return true;
    }
  } while (tree_.drop_one());
  return false;
}

}  // namespace reprise
