// Fine-tuning beside Phantom Optimization (preference.h): both from the logits of one forward call,
// in which every wrong answer stands behind its right one.
#include <array>

#include "base/json.h"
#include "train/objectives/objectives.h"
#include "train/objectives/preference.h"
#include "train/recipe/recipe.h"
#include "train/recipe/section.h"

namespace reprise {
namespace {

struct PoOptions : ObjectiveOptions {
  PreferenceOptions po;
  void identify(Json& recipe) const override {
    recipe["po.beta"] = po.beta;
    recipe["po.gamma"] = po.gamma;
  }
};

class SftPo : public Objective {
 public:
  explicit SftPo(const PreferenceOptions& options) : options_(options) {}
  ObjectiveNeeds needs() const override { return {.wrong_answers = true}; }
  std::span<const LossTerm> terms() const override { return terms_; }
  std::vector<int64_t> items(const Batch& batch) const override {
    return {batch.right_targets(), batch.pairs()};
  }
  BatchLoss loss(Model& model, TrainBackend& backend, const Batch& batch,
                 const Model::Results& forward) override {
    const AnswerLoss parts = answer_loss(backend, target_logits(model, batch, forward.state),
                                         batch.targets, batch.answers, options_);
    BatchLoss loss{{parts.sft, parts.preference}, {}};
    if (parts.margins) {
      Measure preferred{"preferred", kPairs, 0};
      for (const float margin : backend.to_host(parts.margins))
        preferred.sum += margin + options_.gamma > 0;
      loss.measures.push_back(preferred);
    }
    return loss;
  }

 private:
  static constexpr size_t kPairs = 1;  // of the terms
  PreferenceOptions options_;
  std::array<LossTerm, 2> terms_ = {LossTerm{}, LossTerm{"preference_loss"}};
};

std::shared_ptr<const ObjectiveOptions> read(Section& recipe, const std::filesystem::path&) {
  auto options = std::make_shared<PoOptions>();
  Section section = recipe.section("po");
  section.read_number("beta", options->po.beta, 0);
  section.read_number("gamma", options->po.gamma, 0);
  section.finish();
  return options;
}

std::unique_ptr<Objective> make(const Recipe& recipe, TrainBackend&, const ObjectiveInputs&) {
  const auto* options = dynamic_cast<const PoOptions*>(recipe.loss_options.get());
  return std::make_unique<SftPo>(options ? options->po : PreferenceOptions());
}

}  // namespace

ObjectiveKind sft_po_objective() { return {"sft+po", {"po"}, read, make}; }

}  // namespace reprise
