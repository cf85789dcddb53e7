// A training run from a recipe: AdamW, cosine with warm-up, on what the recipe's objective
// minimises. The loop knows neither what its batches are made of (data/batch_source.h) nor what is
// minimised (objectives/objective.h).
//
// Files in the output folder: log.jsonl (a line every log_every steps), plot.svg,
// checkpoint.safetensors (trained weights, Adam's state, the step, the place in the data: the run
// goes on from it to the same losses), quantization.jsonl where weights are in few bits, model.gguf
// at the end.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "base/clock.h"
#include "train/data/batch_source.h"
#include "train/loop/checkpoint.h"
#include "train/loop/run.h"
#include "train/loop/start.h"
#include "train/loop/step_report.h"
#include "train/objectives/objective.h"
#include "train/recipe/recipe.h"
#include "train/train_model.h"
#include "train/weights.h"

namespace reprise {

struct TrainOptions {
  std::filesystem::path output;
  bool resume = false;     // go on from the checkpoint; an Error where there is none
  int64_t stop_after = 0;  // stop (with a checkpoint) when this many steps are done; 0: never
  const std::atomic<bool>* cancelled = nullptr;  // asked between steps; stops with a checkpoint
  std::function<void(const StepReport&)> progress;
  // Told what comes next, before it begins: a step, a validation, a file.
  std::function<void(const std::string& what)> stage;
};

// `cancelled` was set before the first step: there is nothing to go on from.
struct StoppedAtStart {};

class Trainer {
 public:
  // Throws Error where the recipe's model can't be trained so, on its data, or go on from the
  // checkpoint, and StoppedAtStart; of a new output folder nothing is left then.
  Trainer(const Recipe& recipe, TrainBackend& backend, const TrainOptions& options);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Returns true when all steps are done (and model.gguf is written), false when stopped before.
  // Throws StoppedAtStart too.
  bool run();

  Model& model() { return *made_.model; }
  int64_t trainable_parameters() const { return weights_.parameters(); }
  const std::vector<QuantizedTensor>& quantized() const { return weights_.quantized; }

 private:
  void prepare();
  void next(const std::string& what) const {
    if (options_.stage) options_.stage(what);
  }
  void release_backend();
  void stop_if_asked() const;
  // Gives how many steps are done.
  int64_t begin();
  // One step, without its speed. A run that fails in it leaves a checkpoint of the steps before.
  StepReport step(int64_t index);
  // Tokens a second, time left.
  void measure(StepReport& report, int64_t first, Clock::time_point step_start) const;
  void save_checkpoint(int64_t step);
  void export_model();
  // Share of the time budget that is used; 0 without one.
  double time_used() const;
  std::filesystem::path file(const char* name) const { return options_.output / name; }

  Recipe recipe_;
  TrainBackend& backend_;
  TrainOptions options_;
  std::optional<Checkpoint> resumed_;  // until it is restored
  std::unique_ptr<StartedFolder> folder_;
  TrainModel made_;
  Plan plan_;
  TrainedWeights weights_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<BatchSource> batches_;
  std::unique_ptr<TrainRun> run_;  // of all of these
  std::string position_;           // in the data, after the last step that is done
  int64_t saved_ = 0;              // the last checkpoint's step
  Clock::time_point start_;
  double seconds_before_ = 0;  // trained in runs before this one
  std::vector<StepReport> history_;
};

}  // namespace reprise
