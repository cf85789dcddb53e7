// Continuous depth-wise batching: many requests on one model, their rows at any depth of any plan.
//
// A sweep goes over the model's blocks in order. At each block everybody who waits there runs in one
// visit, whatever they are: decode rows of any loop, prompt chunks, the deeper steps of tokens that
// left early. After the blocks one norm and one head serve all rows that are judged at a loop end or
// that are done; those that leave are sampled, and their next tokens start with the next sweep.
// A request's tokens are those it gets alone, to the bit of their logits on the cpu backend: rows
// don't know of each other, and no choice of the scheduler changes what a row computes.
//
// Threads: submit, cancel, stop, usage from any thread; sweep, run, run_until_idle and check from
// one at a time, the engine thread, which alone touches requests and calls their on_event.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/serve/admission.h"
#include "engine/serve/crew.h"
#include "engine/serve/request.h"

namespace reprise {

// Which rows may start beside others. The tokens are the same; the others exist for comparison.
enum class Schedule {
  Sequence,   // all go from token to token together, and wait until all depths are run for all
  Cohort,     // the same, but what is left to do for tokens that left doesn't hold them up
  Depthwise,  // a request goes on when its own token is there
};
std::string schedule_name(Schedule schedule);      // "sequence", "cohort", "depthwise"
Schedule parse_schedule(const std::string& name);  // Throws Error for any other text.

struct SchedulerOptions {
  int64_t prompt_rows = 512;  // most prompt tokens that start in one sweep, >= 1
  Schedule schedule = Schedule::Depthwise;
  AdmissionOptions admission;
  PrefixOptions prefixes;

  void check() const;  // Throws Error naming the option that is out of range.
};

struct SchedulerStats {
  int64_t sweeps = 0;
  int64_t visits = 0, visit_rows = 0;  // of blocks, and rows in them
  int64_t heads = 0, head_rows = 0;    // norm + head calls, and rows in them
  int64_t prompt_tokens = 0;           // that were started
  int64_t prefix_hits = 0;             // prompts that began with tokens others had run
  int64_t prefix_tokens = 0;           // those
  int64_t preemptions = 0;
  int64_t most_running = 0;
};

class Scheduler {
 public:
  // The model must outlive it.
  explicit Scheduler(const Model& model, const SchedulerOptions& options = {});
  ~Scheduler();

  // ---- Any thread.
  // Throws Error where it can't be run: an empty prompt, placeholders without pictures, rules or
  // exits out of range, a prompt that the KV budget never has room for. After that on_event is called
  // until End or Error, unless the scheduler is destroyed before.
  RequestId submit(ServeRequest request);
  // Ends it with StopReason::Cancelled before the next sweep begins. Nothing where it has ended.
  void cancel(RequestId id);
  void stop();  // run() returns after the sweep under way
  KvBudget::Usage usage() const { return admission_.usage(); }

  // ---- The engine thread.
  // One sweep over the blocks; false when there was nothing to do.
  bool sweep();
  void run_until_idle();
  // Sweeps, and waits when idle, until stop().
  void run();
  // Takes its KV away from a request that runs (false: it doesn't). It waits for room like others
  // and is then run again up to where it was; no token changes. Between sweeps.
  bool preempt(RequestId id);
  // Throws InternalError unless all KV rows are in order (backend/kv/check.h). Between sweeps.
  void check() const;
  // Drops all that is kept of prompts. Between sweeps.
  void forget_prefixes() { admission_.tree().clear(); }
  // For others that run beside it, on the engine thread and between sweeps.
  PrefixTree& prefixes() { return admission_.tree(); }
  const PrefixTree& prefixes() const { return admission_.tree(); }
  const SchedulerStats& stats() const { return stats_; }
  // For measurements: from the next sweep on.
  void set_schedule(Schedule schedule) { options_.schedule = schedule; }

 private:
  struct Inbox {
    std::vector<std::unique_ptr<Live>> submitted;
    std::vector<RequestId> cancelled;
  };

  // scheduler.cc: requests come and go.
  void take_inbox();
  void end_late();
  void admit();
  void deliver(Live& live, int loop, std::span<const float> logits);
  // Every one of these requests may be to blame for an exception: a single one ends with it, of
  // several each starts again by itself.
  void fault(std::vector<Live*> whose, const std::string& what);
  void preempt(Live& live);
  void end(Live& live, StopReason reason);  // from outside
  void finish(Live& live, StopReason reason, std::string rest);
  void fail_one(Live& live, const std::string& what);
  void drop(Live& live);  // forgets it

  // prefixes.cc: what prompts have in common.
  // Before a prompt's own rows start: takes the most that others have run of it. False: it doesn't
  // start now, because another one is computing more of it, because that was all of it, or because
  // it is no longer there.
  bool take_head(Live& live);
  // It began with tokens that others had run; `before`: so many were known. May end it.
  void took(Live& live, int64_t before);
  void keep_prompt(Live& live);  // for others
  void keep_answer(Live& live);  // behind its prompt, for prompts that go on with it
  // Before the first token behind it is run.
  void end_prompt(Live& live);

  // sweep.cc: rows.
  void start_rows();
  bool may_start() const;
  // Return how many rows they have started.
  int64_t start_prompt(Live& live, int64_t most);
  int64_t start_rerun(Live& live, int64_t most);
  void start_decode(std::vector<Live*> next);
  // KV for one more token, taken from less important requests if need be; false: it is not to have
  // it now.
  bool make_room(Live& live);
  void run_block(int block);
  // One norm and one head for all who are judged or done, and what follows from it.
  void judge();
  // Who of a group at a loop end leaves, by row; they do.
  struct Leavers {
    Group* group = nullptr;  // what they have become; null: nobody leaves, or all were at fault
    std::vector<size_t> rows;
  };
  Leavers let_leave(Group& group, std::span<const float> logits);

  const Model& model_;
  const Runner runner_;
  SchedulerOptions options_;
  SchedulerStats stats_;
  Admission admission_;
  std::vector<std::unique_ptr<Live>> running_;  // in the order of admission
  Crew crew_;                                   // cohorts under way; behind the requests they hold
  bool moved_ = false;  // whether the sweep under way has brought anybody further

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  Inbox inbox_;
  RequestId next_id_ = 1;
  bool stopped_ = false;
};

}  // namespace reprise
