// What training minimises: a sum of named, weighted terms, each the mean over the items (tokens,
// pairs, ...) that a step counts. The recipe's key `loss` chooses one; the loop knows none by name.
//
// A new objective: one file beside this one and one line in objective.cc. It reads its own sections
// of the recipe, says what it needs of batches and forward pass, and turns a batch's states into
// sums. What it holds beside (a teacher, an exit gate) is made by its factory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "base/json_fwd.h"
#include "text/tokenizer/tokenizer.h"
#include "train/data/batch.h"
#include "train/fingerprint.h"
#include "train/forward.h"

namespace reprise {

struct Recipe;
class Section;

struct ObjectiveNeeds {
  bool wrong_answers = false;  // of the batches: a wrong answer behind each right one
  bool exits = false;          // of the forward pass: the states at the plan's LoopEnds
};

struct LossTerm {
  std::string name;   // its key in log.jsonl, unweighted; empty: it isn't written beside the loss
  double weight = 1;  // of the mean over the step's items
};

// Shown in log.jsonl and not minimised: the mean over the items of a term.
struct Measure {
  std::string name;
  size_t term = 0;
  double sum = 0;  // over the batch's items
};

// One forward call's share in a step's loss.
struct BatchLoss {
  // By term, [1]: the sum over the batch's items; unset where it has none. One at least is set.
  std::vector<Tensor> sums;
  std::vector<Measure> measures;
  double teacher_seconds = 0;  // of the call: what another model's forward pass took
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual ObjectiveNeeds needs() const { return {}; }
  virtual std::span<const LossTerm> terms() const = 0;
  // How many items the batch has for each term. A mean runs over all calls of a step, so this is
  // asked of all of them before the first one is run.
  virtual std::vector<int64_t> items(const Batch& batch) const = 0;
  // Of what it holds beside the model.
  virtual Fingerprints fingerprints() const { return {}; }
  virtual BatchLoss loss(Model& model, TrainBackend& backend, const Batch& batch,
                         const Model::Results& forward) = 0;
};

// What a recipe says to one objective alone; those that have options derive their own.
struct ObjectiveOptions {
  virtual ~ObjectiveOptions() = default;
  // Adds what must stay the same where a run is resumed, by key ("po.beta": 2).
  virtual void identify(Json& recipe) const = 0;
  // Whether the model must have an exit gate: it gets one where it has none.
  virtual bool exit_gate() const { return false; }
};

// What is trained.
struct ObjectiveInputs {
  Model& model;
  const Tokenizer* tokenizer = nullptr;  // null: it has none
};

struct ObjectiveKind {
  std::string name;                   // as the recipe's key `loss` says it
  std::vector<std::string> sections;  // of the recipe, which no other objective has
  // Reads them; folder: of the recipe, which paths are relative to. Null: it has no options.
  std::shared_ptr<const ObjectiveOptions> (*read)(Section& recipe,
                                                  const std::filesystem::path& folder);
  // Throws Error naming recipe and key where the model can't be trained so.
  std::unique_ptr<Objective> (*make)(const Recipe& recipe, TrainBackend& backend,
                                     const ObjectiveInputs& inputs);
  bool on_texts = false;  // predicts every token of texts, not answers
};

std::span<const ObjectiveKind> objective_kinds();
// nullptr where there is none of this name.
const ObjectiveKind* find_objective(const std::string& name);
// "sft, sft+po"
std::string objective_names();
// The objective that recipe.loss names; Error naming the recipe where it is unknown.
std::unique_ptr<Objective> make_objective(const Recipe& recipe, TrainBackend& backend,
                                          const ObjectiveInputs& inputs);

// The rows of a state [rows, d] that the batch's targets are predicted by: [targets, d].
Tensor target_states(Backend& backend, const Batch& batch, const Tensor& state);
// Logits [targets, vocabulary] of the rows that the batch's targets are predicted by.
Tensor target_logits(Model& model, const Batch& batch, const Tensor& state);

}  // namespace reprise
