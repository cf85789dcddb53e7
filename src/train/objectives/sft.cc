// Supervised fine-tuning: cross entropy over the tokens of answers.
#include <array>

#include "train/objectives/objectives.h"

namespace reprise {
namespace {

class Sft : public Objective {
 public:
  std::span<const LossTerm> terms() const override { return terms_; }
  std::vector<int64_t> items(const Batch& batch) const override { return {batch.right_targets()}; }
  BatchLoss loss(Model& model, TrainBackend& backend, const Batch& batch,
                 const Model::Results& forward) override {
    const Tensor logits = target_logits(model, batch, forward.state);
    return {{backend.cross_entropy_sum(logits, batch.targets)}, {}};
  }

 private:
  std::array<LossTerm, 1> terms_;  // the loss itself, so it has no line of its own
};

}  // namespace

ObjectiveKind sft_objective() {
  return {"sft",
          {},
          nullptr,
          [](const Recipe&, TrainBackend&, const ObjectiveInputs&) -> std::unique_ptr<Objective> {
            return std::make_unique<Sft>();
          }};
}

}  // namespace reprise
