#include "engine/serve/scheduler.h"

#include <algorithm>

#include "backend/kv/check.h"
#include "engine/logits.h"

namespace reprise {

std::string schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::Sequence:
      return "sequence";
    case Schedule::Cohort:
      return "cohort";
    case Schedule::Depthwise:
      return "depthwise";
  }
  return "";
}

Schedule parse_schedule(const std::string& name) {
  for (const Schedule schedule : {Schedule::Sequence, Schedule::Cohort, Schedule::Depthwise})
    if (name == schedule_name(schedule)) return schedule;
  fail("schedule: expected sequence, cohort or depthwise, found '{}'", name);
}

void SchedulerOptions::check() const {
  if (prompt_rows < 1) fail("prompt rows of a sweep: expected 1 or more, found {}", prompt_rows);
  admission.check();
  prefixes.check();
}

Scheduler::Scheduler(const Model& model, const SchedulerOptions& options)
    : model_(model),
      runner_(model),
      options_((options.check(), options)),
      admission_(model, options.admission, options.prefixes),
      crew_(model, runner_) {}

Scheduler::~Scheduler() = default;

RequestId Scheduler::submit(ServeRequest request) {
  REPRISE_CHECK(request.plans && request.on_event, "a request without plans or without a receiver");
  check_prompt(request.prompt);
  auto live = std::make_unique<Live>(model_, std::move(request));
  admission_.check_fits(*live);
  std::lock_guard lock(mutex_);
  const RequestId id = live->id = next_id_++;
  inbox_.submitted.push_back(std::move(live));
  wake_.notify_one();
  return id;
}

void Scheduler::cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  inbox_.cancelled.push_back(id);
  wake_.notify_one();
}

void Scheduler::stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  wake_.notify_one();
}

bool Scheduler::sweep() {
  take_inbox();
  end_late();
  admit();
  if (running_.empty()) return false;  // then nobody waits either: the first is always admitted
  moved_ = false;
  start_rows();
  for (int block = 0; block < model_.config().text.layers; ++block) run_block(block);
  judge();
  ++stats_.sweeps;
  REPRISE_CHECK(moved_, "a sweep over {} requests in which nothing could run", running_.size());
  return true;
}

void Scheduler::run_until_idle() {
  while (sweep()) {
  }
}

void Scheduler::run() {
  while (true) {
    const bool busy = sweep();
    std::unique_lock lock(mutex_);
    if (!busy)
      wake_.wait(
          lock, [&] { return stopped_ || !inbox_.submitted.empty() || !inbox_.cancelled.empty(); });
    if (stopped_) return;
  }
}

void Scheduler::check() const {
  std::vector<const KvRow*> rows = admission_.tree().rows();
  for (const auto& live : running_)
    for (const auto& [number, row] : live->sequence.kv) rows.push_back(&row);
  check_kv(rows, &admission_.budget());
}

void Scheduler::take_inbox() {
  Inbox inbox;
  {
    std::lock_guard lock(mutex_);
    std::swap(inbox, inbox_);
  }
  for (auto& live : inbox.submitted) admission_.wait(std::move(live));
  for (const RequestId id : inbox.cancelled)
    for (const auto* list : {&running_, &admission_.waiting()}) {
      const auto at = std::find_if(list->begin(), list->end(),
                                   [&](const auto& live) { return live->id == id; });
      if (at == list->end()) continue;
      end(**at, StopReason::Cancelled);
      break;
    }
}

void Scheduler::end_late() {
  const auto now = Clock::now();
  std::vector<Live*> late;
  for (const auto* list : {&running_, &admission_.waiting()})
    for (const auto& live : *list)
      if (live->request.deadline && *live->request.deadline <= now) late.push_back(live.get());
  for (Live* live : late) end(*live, StopReason::Deadline);
}

void Scheduler::admit() {
  while (auto live = admission_.next(running_.size())) {
    running_.push_back(std::move(live));
    stats_.most_running = std::max(stats_.most_running, std::ssize(running_));
    took(*running_.back(), 0);
  }
}

void Scheduler::deliver(Live& live, int loop, std::span<const float> logits) {
  const bool first = live.answer.tokens().empty();  // what was run is the prompt
  if (first) live.cached_tokens = live.taken;
  ServeEvent event{.id = live.id,
                   .loop = loop,
                   .logits = logits,
                   .computed = Clock::now(),
                   .cached_tokens = live.cached_tokens};
  AnswerEvent next;
  try {
    check_logits(model_, logits, fmt::format("token {} of the request", live.sequence.length));
    next = live.answer.push(logits);
  } catch (const std::exception& error) {
    return fail_one(live, error.what());
  }
  if (first) {
    live.prompt_left = live.left_at;
    if (live.whole_prompt() && admission_.tree().on())
      live.whole = {live.request.exit, {logits.begin(), logits.end()}, loop, live.left_at};
  } else {
    live.exits.push_back(loop);
  }
  live.memory = {};
  live.left_at = -1;
  live.alone = false;
  event.token = next.token;
  event.text = std::move(next.text);
  live.request.on_event(event);
  if (!next.end) return;
  finish(live, *next.end, {});
}

void Scheduler::fault(std::vector<Live*> whose, const std::string& what) {
  moved_ = true;
  std::sort(whose.begin(), whose.end());
  whose.erase(std::unique(whose.begin(), whose.end()), whose.end());
  if (whose.size() == 1) return fail_one(*whose[0], what);
  for (Live* live : whose) {
    live->alone = true;
    preempt(*live);
  }
}

bool Scheduler::preempt(RequestId id) {
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& live) { return live->id == id; });
  if (at == running_.end()) return false;
  preempt(**at);
  return true;
}

void Scheduler::preempt(Live& live) {
  moved_ = true;
  ++stats_.preemptions;
  crew_.remove(live);
  live.rewind();
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& one) { return one.get() == &live; });
  REPRISE_CHECK(at != running_.end());
  admission_.wait(std::move(*at));
  running_.erase(at);
}

void Scheduler::end(Live& live, StopReason reason) {
  std::string rest = live.answer.finish(reason);
  finish(live, *live.answer.end(), std::move(rest));
}

void Scheduler::finish(Live& live, StopReason reason, std::string rest) {
  live.request.on_event({.id = live.id,
                         .kind = ServeEvent::Kind::End,
                         .text = std::move(rest),
                         .reason = reason,
                         .cached_tokens = live.cached_tokens,
                         .kv_bytes = live.sequence.kv_bytes()});
  if (live.prompt_done && live.generated() == 0) keep_prompt(live);
  if (live.generated() > 0) keep_answer(live);
  drop(live);
}

void Scheduler::fail_one(Live& live, const std::string& what) {
  live.request.on_event({.id = live.id, .kind = ServeEvent::Kind::Error, .error = what});
  drop(live);
}

void Scheduler::drop(Live& live) {
  moved_ = true;
  crew_.remove(live);
  for (auto* list : {&running_, &admission_.waiting()})
    std::erase_if(*list, [&](const auto& one) { return one.get() == &live; });
}

}  // namespace reprise
