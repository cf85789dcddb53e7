// Batches: requests from a file through the scheduler, answers to another file. A batch that was
// stopped, however, goes on with the requests that have no answer yet. Each answer depends on its
// request, the model and the options alone: not on what runs beside it or was answered before.
//
// Memory: of the input a window is held, as many requests waiting as running.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "api/batch_files.h"
#include "api/batch_line.h"
#include "api/prompt_maker.h"
#include "engine/prompt.h"
#include "engine/serve/scheduler.h"

namespace reprise {

struct BatchOptions {
  PlanOptions plan;                    // of all requests,
  std::shared_ptr<const Plans> plans;  // made of them
  SchedulerOptions scheduler;
  // What holds for requests that don't say. The seed of one that has none follows from this one and
  // its custom_id.
  GenerationOptions defaults;
  PictureOptions picture;  // of all pictures
  std::string model_name;  // echoed where a request names no model
};

struct BatchFigures {
  int64_t requests = 0;  // of the whole input
  int64_t resumed = 0;   // answered before
  int64_t answered = 0;  // now
  int64_t failed = 0;    // of these with an error
  int64_t prompt_tokens = 0, generated_tokens = 0;
  double seconds = 0;
  // Of tokens that were run, by loop how many left there; empty for a model without loops.
  std::vector<int64_t> exits;
  SchedulerStats scheduler;

  int64_t left() const { return requests - resumed - answered; }
  double token_rate() const;  // generated ones a second
  double mean_depth() const;  // loops a token; 0 where there are none
};

// Not "Batch", which is what a step of training takes (train/data/batch.h): one name, one type.
class BatchJob {
 public:
  // Throws Error where a file can't be used, or where the output answers other requests than the
  // input has.
  BatchJob(LoadedModel& loaded, BatchOptions options, const std::filesystem::path& in,
           const std::filesystem::path& out);

  // Answers what has no answer yet, until `cancel` becomes true. `progress` is called after every
  // sweep. Errors of a request are its answer. Throws Error where a file can't be read or written.
  void run(const std::atomic<bool>& cancel,
           const std::function<void(const BatchFigures&)>& progress = {});
  const BatchFigures& figures() const { return figures_; }

 private:
  // A request under way.
  struct Item {
    BatchLine line;
    ExitConfig exit;
    int64_t prompt_tokens = 0;
    int64_t bytes = 0;            // of its prompt
    std::vector<Choice> choices;  // one where all would be equal
    std::vector<RequestId> ids;   // of the choices that were submitted
    int64_t open = 0;             // of them under way
    bool begun = false;           // it has a token
    std::optional<ApiError> error;
  };

  void check_input();
  bool may_submit() const;
  // Takes the next line that has no answer; false: there is none.
  bool take_line();
  using MakePrompt = std::function<Prompt(const CompletionRequest&)>;
  // An Error of make_prompt is the answer.
  void submit(BatchLine line, const MakePrompt& make_prompt);
  // Submits those whose pictures are encoded. wait: there is nothing else to do.
  void take_made(bool wait);
  bool differ(const GenerationOptions& options) const;
  Prompt build(PromptBuilder& builder, const CompletionRequest& request);
  void on_event(Item& item, size_t choice, const ServeEvent& event);
  void finish(Item& item);
  void write_error(const BatchLine& line, const ApiError& error);

  LoadedModel& loaded_;
  const BatchOptions options_;
  const uint64_t settings_;        // what answers depend on beside their requests
  PromptBuilder builder_;          // of prompts without pictures
  PromptBuilder picture_builder_;  // of the others, on maker_'s thread
  LineReader in_;
  BatchOutput out_;
  std::unordered_map<std::string, int64_t> seen_;   // by custom_id the first line
  std::map<int64_t, std::unique_ptr<Item>> items_;  // by line
  std::vector<int64_t> ended_;                      // lines whose requests have all ended
  int64_t open_ = 0;                                // requests of the scheduler under way
  int64_t waiting_bytes_ = 0;                       // of prompts that have no token yet
  Scheduler scheduler_;                             // behind what its events go to
  BatchFigures figures_;
  PromptMaker maker_;  // last: its thread uses the others
};

// The seed of a request that names none, and of one choice of several: that of the first is the
// request's.
uint64_t seed_of_request(uint64_t seed, const std::string& custom_id);
uint64_t seed_of_choice(uint64_t seed, int64_t choice);

}  // namespace reprise
