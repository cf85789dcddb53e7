#include "load.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace reprise::bench {
namespace {

int loop_of(const std::vector<double>& shares, double draw) {
  double sum = 0;
  for (size_t loop = 0; loop + 1 < shares.size(); ++loop)
    if (draw < (sum += shares[loop])) return static_cast<int>(loop);
  return static_cast<int>(shares.size()) - 1;
}

constexpr uint64_t kMostTokens = uint64_t{1} << 32;  // of one request

TokenPrompt make_prompt(const Model& model, const LoadOptions& options, int64_t request,
                        int64_t size) {
  TokenPrompt prompt;
  if (!options.prompts.empty()) {
    prompt.ids = options.prompts[static_cast<size_t>(request) % options.prompts.size()];
    return prompt;
  }
  const Philox rng(static_cast<uint64_t>(request) + 1, 0);
  for (int64_t i = 0; i < size; ++i)
    prompt.ids.push_back(static_cast<int32_t>(rng.uniform(static_cast<uint64_t>(i)) *
                                              static_cast<double>(model.config().text.vocab)));
  return prompt;
}

ServeRequest make_request(const Model& model, const LoadOptions& options,
                          const std::shared_ptr<const Plans>& plans, int64_t request,
                          int64_t size) {
  ServeRequest made;
  made.prompt = make_prompt(model, options, request, size);
  made.rules.max_tokens = options.decode;
  made.exit = options.exit;
  made.plans = plans;
  if (options.depths)
    made.forced_exits = [depths = options.depths, request](int64_t token) {
      return depths(request, token);
    };
  return made;
}

SchedulerOptions scheduler_options(const LoadOptions& options) {
  SchedulerOptions made;
  made.prompt_rows = options.prompt_rows;
  made.admission.most_running = options.rows;
  return made;
}

SchedulerStats difference(SchedulerStats now, const SchedulerStats& before) {
  now.sweeps -= before.sweeps;
  now.visits -= before.visits;
  now.visit_rows -= before.visit_rows;
  now.heads -= before.heads;
  now.head_rows -= before.head_rows;
  return now;
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

Depths independent_depths(std::vector<double> shares, uint64_t seed) {
  return [shares = std::move(shares), rng = Philox(seed, 0)](int64_t request, int64_t token) {
    return loop_of(shares, rng.uniform(static_cast<uint64_t>(request) * kMostTokens +
                                       static_cast<uint64_t>(token)));
  };
}

Depths correlated_depths(std::vector<double> shares, uint64_t seed) {
  return [shares = std::move(shares), draw = Philox(seed, 0), change = Philox(seed, 1)](
             int64_t request, int64_t token) {
    const uint64_t first = static_cast<uint64_t>(request) * kMostTokens;
    auto at = static_cast<uint64_t>(token);
    while (at > 0 && change.uniform(first + at) >= 1 - kKept) --at;  // where it last changed
    return loop_of(shares, draw.uniform(first + at));
  };
}

double Window::head_rows_per_token() const {
  return static_cast<double>(stats.head_rows) / static_cast<double>(tokens);
}
double Window::rows_per_head() const {
  return static_cast<double>(stats.head_rows) /
         static_cast<double>(std::max<int64_t>(1, stats.heads));
}
double Window::rows_per_visit() const {
  return static_cast<double>(stats.visit_rows) /
         static_cast<double>(std::max<int64_t>(1, stats.visits));
}

Load::Load(const Model& model, const LoadOptions& options)
    : decode_(options.decode),
      scheduler_(model, scheduler_options(options)),
      made_(static_cast<size_t>(options.rows)),
      exits_(static_cast<size_t>(model.decode_plan().loops())) {
  const std::shared_ptr<const Plans> plans = make_plans(model);
  for (int64_t r = 0; r < options.rows; ++r) {
    ServeRequest request = make_request(model, options, plans, r, options.prompt);
    request.on_event = [this, r](const ServeEvent& event) {
      if (event.kind == ServeEvent::Kind::Error) errors_.push_back(event.error);
      if (event.kind != ServeEvent::Kind::Token) return;
      ++made_[static_cast<size_t>(r)];
      ++tokens_;
      ++exits_[static_cast<size_t>(event.loop)];
    };
    scheduler_.submit(std::move(request));
  }
}

void Load::sweep_until_each_has(int64_t more) {
  std::vector<int64_t> goal = made_;
  for (int64_t& tokens : goal) tokens += more;
  const auto reached = [&] {
    for (size_t r = 0; r < goal.size(); ++r)
      if (made_[r] < goal[r]) return false;
    return true;
  };
  while (!reached()) {
    const bool busy = scheduler_.sweep();
    if (!errors_.empty()) fail("a request of the load: {}", errors_.front());
    REPRISE_CHECK(busy, "a load that has ended");
  }
}

void Load::start() { sweep_until_each_has(1); }

bool Load::has(int64_t tokens) const {
  return *std::max_element(made_.begin(), made_.end()) + tokens < decode_;
}

Window Load::measure(Schedule schedule, int64_t tokens) {
  scheduler_.set_schedule(schedule);
  sweep_until_each_has(2);
  Window window;
  const SchedulerStats before = scheduler_.stats();
  const int64_t tokens_before = tokens_;
  const std::vector<int64_t> exits_before = exits_;
  const Clock::time_point begin = Clock::now();
  if (schedule == Schedule::Depthwise) {
    // Requests are at different depths and go on at different paces: all together make this many.
    const int64_t goal = tokens_ + tokens * static_cast<int64_t>(made_.size());
    while (tokens_ < goal) {
      scheduler_.sweep();
      if (!errors_.empty()) fail("a request of the load: {}", errors_.front());
    }
  } else {
    sweep_until_each_has(tokens);
  }
  window.seconds = seconds_since(begin);
  window.tokens = tokens_ - tokens_before;
  for (size_t loop = 0; loop < exits_.size(); ++loop) {
    window.exits.push_back(exits_[loop] - exits_before[loop]);
    window.loops += window.exits.back() * static_cast<int64_t>(loop + 1);
  }
  window.stats = difference(scheduler_.stats(), before);
  return window;
}

Latency measure_latency(const Model& model, const LoadOptions& options, Schedule schedule,
                        int64_t long_prompt) {
  SchedulerOptions scheduling = scheduler_options(options);
  scheduling.schedule = schedule;
  scheduling.admission.most_running = options.rows + 1;  // the long prompt beside them
  Scheduler scheduler(model, scheduling);
  const std::shared_ptr<const Plans> plans = make_plans(model);
  struct Times {
    Clock::time_point arrival, last;
    bool started = false;
  };
  const int64_t requests = 2 * options.rows;
  std::vector<Times> times(static_cast<size_t>(requests));
  Latency latency;
  int64_t tokens = 0, next = 0;
  std::string error;
  const std::function<void()> submit = [&] {
    const int64_t number = next++;
    ServeRequest request = make_request(model, options, plans, number, options.prompt);
    times[static_cast<size_t>(number)].arrival = Clock::now();
    request.on_event = [&, number](const ServeEvent& event) {
      Times& own = times[static_cast<size_t>(number)];
      if (event.kind == ServeEvent::Kind::Error) error = event.error;
      if (event.kind == ServeEvent::Kind::End && next < requests) submit();
      if (event.kind != ServeEvent::Kind::Token) return;
      const Clock::time_point now = Clock::now();
      const double since =
          std::chrono::duration<double>(now - (own.started ? own.last : own.arrival)).count();
      (own.started ? latency.between : latency.first).push_back(since);
      own.started = true;
      own.last = now;
      ++tokens;
    };
    scheduler.submit(std::move(request));
  };
  while (next < options.rows) submit();
  bool arrived = long_prompt == 0;
  while (true) {
    if (!arrived && tokens >= requests * options.decode / 4) {
      LoadOptions one = options;
      one.decode = 1;
      one.prompts.clear();
      ServeRequest request = make_request(model, one, plans, requests, long_prompt);
      request.on_event = [&](const ServeEvent& event) {
        if (event.kind == ServeEvent::Kind::Error) error = event.error;
      };
      scheduler.submit(std::move(request));
      arrived = true;
    }
    if (!scheduler.sweep()) break;
    if (!error.empty()) fail("a request of the load: {}", error);
  }
  return latency;
}

}  // namespace reprise::bench
