#include "train/objectives/objective.h"

#include <algorithm>

#include "base/error.h"
#include "train/objectives/objectives.h"
#include "train/recipe/recipe.h"

namespace reprise {

std::span<const ObjectiveKind> objective_kinds() {
  static const std::vector<ObjectiveKind> kinds = {
      sft_objective(),
      sft_po_objective(),
      lm_objective(),
  };
  return kinds;
}

const ObjectiveKind* find_objective(const std::string& name) {
  const auto kinds = objective_kinds();
  const auto it = std::ranges::find(kinds, name, &ObjectiveKind::name);
  return it == kinds.end() ? nullptr : &*it;
}

std::string objective_names() {
  std::string list;
  for (const ObjectiveKind& kind : objective_kinds())
    list += (list.empty() ? "" : ", ") + kind.name;
  return list;
}

std::unique_ptr<Objective> make_objective(const Recipe& recipe, TrainBackend& backend,
                                          const ObjectiveInputs& inputs) {
  const ObjectiveKind* kind = find_objective(recipe.loss);
  if (!kind)
    fail("{}: key 'loss': expected one of {}, found '{}'", recipe.path.string(), objective_names(),
         recipe.loss);
  return kind->make(recipe, backend, inputs);
}

Tensor target_states(Backend& backend, const Batch& batch, const Tensor& state) {
  const std::vector<int32_t>& rows = batch.target_rows;
  bool all = std::ssize(rows) == state.dim(0);
  for (size_t i = 0; all && i < rows.size(); ++i) all = rows[i] == static_cast<int32_t>(i);
  return all ? state : backend.gather_rows(state, rows);
}

Tensor target_logits(Model& model, const Batch& batch, const Tensor& state) {
  return model.logits(model.final_norm(target_states(model.backend(), batch, state)));
}

}  // namespace reprise
