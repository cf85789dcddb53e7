// Language modelling: cross entropy of every next token, and beside it, in any combination,
//
//   distill:    weight * divergence from a teacher (temperature^2 times that for the two KLs, so
//               that the gradients' size doesn't depend on it; arXiv 1503.02531, section 2)
//   early_exit: losses at the exits of a looped model (arXiv 2410.20672), under weights that
//               replace the output's own 1; its gate has a term of weight 1
//
// All are means over the predicted tokens. Logged: ce, distill, exit.<i>.ce, exit.<i>.kd, gate.
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "train/objectives/lm_terms.h"
#include "train/objectives/objectives.h"
#include "train/recipe/recipe.h"
#include "train/recipe/section.h"

namespace reprise {
namespace {

struct DistillOptions {
  std::filesystem::path teacher;
  std::string divergence = "forward_kl";
  double weight = 1;
  double temperature = 1;
  std::string bits;  // "", "nf4", "int8"

  Divergence kind() const {
    for (const NamedDivergence& known : kDivergences)
      if (divergence == known.name) return known.kind;
    fail("divergence '{}' is unknown", divergence);
  }
};

struct EarlyExitOptions {
  std::string loss = "aggressive";  // or "weighted"
  double alpha = 0.1;
  bool distill = true;
  bool gate = false;
};

struct LmOptions : ObjectiveOptions {
  std::optional<DistillOptions> distill;
  std::optional<EarlyExitOptions> early_exit;

  bool exit_gate() const override { return early_exit && early_exit->gate; }
  void identify(Json& recipe) const override {
    if (distill) {
      recipe["distill.teacher"] = distill->teacher.filename().string();
      recipe["distill.divergence"] = distill->divergence;
      recipe["distill.weight"] = distill->weight;
      recipe["distill.temperature"] = distill->temperature;
      recipe["distill.bits"] = distill->bits;
    }
    if (early_exit) {
      recipe["early_exit.loss"] = early_exit->loss;
      recipe["early_exit.alpha"] = early_exit->alpha;
      recipe["early_exit.distill"] = early_exit->distill;
      recipe["early_exit.gate"] = early_exit->gate;
    }
  }
};

class Lm : public Objective {
 public:
  Lm(const LmOptions& options, const Plan& plan, std::unique_ptr<Teacher> teacher)
      : exits_(plan), needs_exits_(options.early_exit.has_value()), teacher_(std::move(teacher)) {
    if (options.early_exit)
      add_exits(*options.early_exit);
    else
      parts_.push_back({"ce", {}, 1});
    if (options.distill) add_teacher(*options.distill);
    terms_.push_back({});
    if (options.exit_gate()) terms_.push_back({"gate"});
  }
  ObjectiveNeeds needs() const override { return {.exits = needs_exits_}; }
  std::span<const LossTerm> terms() const override { return terms_; }
  Fingerprints fingerprints() const override {
    if (!teacher_) return {};
    return {{"distill.teacher", teacher_->fingerprint()}};
  }
  std::vector<int64_t> items(const Batch& batch) const override {
    const int64_t targets = std::ssize(batch.targets);
    std::vector<int64_t> items = {targets};
    if (has_gate()) items.push_back(targets * (exits_.count() - 1));  // the last one is no choice
    return items;
  }
  BatchLoss loss(Model& model, TrainBackend& backend, const Batch& batch,
                 const Model::Results& forward) override {
    const LinearWeight& head = model.head();
    const bool head_alone =
        model.head_gives_logits() && (!teacher_ || teacher_->model().head_gives_logits());
    const bool plain = !head.bias && head_alone && backend.has_plain_values(head.weight);
    BatchLoss loss = plain ? by_rows(model, backend, batch, forward)
                           : from_logits(model, backend, batch, forward);
    if (teacher_) loss.teacher_seconds = teacher_->take_seconds();
    return loss;
  }

 private:
  struct Part {
    std::string name;
    LmTerm term;
    double weight = 1;
  };

  bool has_gate() const { return terms_.size() > 1; }
  void add_exits(const EarlyExitOptions& options) {
    const int loops = exits_.count();
    const std::vector<double> weights =
        options.loss == "weighted" ? weighted_exits(loops) : aggressive_exits(loops, options.alpha);
    for (int i = 0; i + 1 < loops; ++i) {
      const double weight = weights[static_cast<size_t>(i)];
      parts_.push_back({fmt::format("exit.{}.ce", i), {.exit = i}, weight});
      if (options.distill)
        parts_.push_back(
            {fmt::format("exit.{}.kd", i), {.kind = LmTerm::Kind::Distill, .exit = i}, weight});
    }
    parts_.push_back({"ce", {}, weights.back()});
  }
  void add_teacher(const DistillOptions& options) {
    const LmTerm term{.kind = LmTerm::Kind::Teacher,
                      .divergence = options.kind(),
                      .temperature = options.temperature};
    const bool kl =
        term.divergence == Divergence::ForwardKl || term.divergence == Divergence::ReverseKl;
    const double squared = options.temperature * options.temperature;
    parts_.push_back({"distill", term, options.weight * (kl ? squared : 1)});
  }

  // For a head that only linear takes.
  BatchLoss from_logits(Model& model, TrainBackend& backend, const Batch& batch,
                        const Model::Results& forward) const {
    LmSums sums(model, backend, batch, forward, exits_, teacher_.get());
    BatchLoss loss;
    Tensor all;
    for (const Part& part : parts_) {
      const Tensor sum = sums.sum(part.term);
      const auto weight = static_cast<float>(part.weight);
      all = all ? backend.add(all, sum, weight) : backend.scale(sum, weight);
      loss.measures.push_back({part.name, 0, backend.to_host(sum)[0]});
    }
    loss.sums = {all};
    if (!has_gate()) return loss;
    Tensor gate;
    for (int exit = 0; exit + 1 < exits_.count(); ++exit) {
      const Tensor one = sums.sum({.kind = LmTerm::Kind::Gate, .exit = exit});
      gate = gate ? backend.add(gate, one) : one;
    }
    loss.sums.push_back(gate);
    return loss;
  }

  // The same without the logits of all rows in memory.
  BatchLoss by_rows(Model& model, TrainBackend& backend, const Batch& batch,
                    const Model::Results& forward) const {
    const auto normed = [&](const Tensor& state) {
      return model.final_norm(target_states(backend, batch, state));
    };
    std::vector<HeadExit> exits;
    for (int i = 0; needs_exits_ && i + 1 < exits_.count(); ++i)
      exits.push_back(
          {normed(exits_.output_state(model, batch, forward.exits[static_cast<size_t>(i)], i))});
    exits.push_back({normed(forward.state)});
    HeadTeacher teacher;
    for (const Part& part : parts_) {
      HeadExit& exit =
          part.term.exit == kFinalExit ? exits.back() : exits[static_cast<size_t>(part.term.exit)];
      if (part.term.kind == LmTerm::Kind::CrossEntropy) exit.ce = part.weight;
      if (part.term.kind == LmTerm::Kind::Distill) exit.kd = part.weight;
      if (part.term.kind != LmTerm::Kind::Teacher) continue;
      teacher = {teacher_->normed(batch), teacher_->model().head().weight, part.term.divergence,
                 static_cast<float>(part.term.temperature), part.weight};
    }
    const HeadLosses found = backend.head_losses(
        exits, model.head().weight, teacher.state ? &teacher : nullptr, batch.targets, has_gate());
    BatchLoss loss;
    loss.sums = {found.loss};
    for (const Part& part : parts_) {
      const size_t exit =
          part.term.exit == kFinalExit ? exits.size() - 1 : static_cast<size_t>(part.term.exit);
      const double sum = part.term.kind == LmTerm::Kind::Teacher   ? found.divergence
                         : part.term.kind == LmTerm::Kind::Distill ? found.kd[exit]
                                                                   : found.ce[exit];
      loss.measures.push_back({part.name, 0, sum});
    }
    if (!has_gate()) return loss;
    Tensor gate;
    for (size_t exit = 0; exit + 1 < exits.size(); ++exit) {
      const Tensor one = exit_gate_sum(model, backend, batch, forward.exits[exit],
                                       found.tokens[exit], found.tokens.back());
      gate = gate ? backend.add(gate, one) : one;
    }
    loss.sums.push_back(gate);
    return loss;
  }

  LmExits exits_;
  bool needs_exits_;
  std::unique_ptr<Teacher> teacher_;
  std::vector<Part> parts_;
  std::vector<LossTerm> terms_;  // all parts weighted, whose values are measures; the gate
};

DistillOptions read_distill(Section section, const std::filesystem::path& folder) {
  DistillOptions options;
  section.read_path("teacher", options.teacher, folder);
  section.read("divergence", options.divergence, "a divergence's name");
  section.read_positive("weight", options.weight);
  section.read_positive("temperature", options.temperature);
  section.read("bits", options.bits, "nf4 or int8");
  section.finish();
  if (options.teacher.empty()) section.bad("teacher", "is missing, expected a model");
  std::string names;
  bool known = false;
  for (const NamedDivergence& divergence : kDivergences) {
    names += (names.empty() ? "" : ", ") + std::string(divergence.name);
    known |= options.divergence == divergence.name;
  }
  if (!known)
    section.bad("divergence",
                fmt::format("expected one of {}, found '{}'", names, options.divergence));
  if (!options.bits.empty() && options.bits != "nf4" && options.bits != "int8")
    section.bad("bits", "expected nf4 or int8, found '" + options.bits + "'");
  return options;
}

EarlyExitOptions read_early_exit(Section section) {
  EarlyExitOptions options;
  section.read("loss", options.loss, "weighted or aggressive");
  section.read_number("alpha", options.alpha, 0);
  section.read("distill", options.distill, "true or false");
  section.read("gate", options.gate, "true or false");
  section.finish();
  if (options.loss != "weighted" && options.loss != "aggressive")
    section.bad("loss", "expected weighted or aggressive, found '" + options.loss + "'");
  if (options.loss == "weighted" && section.has("alpha"))
    section.bad("alpha", "belongs to loss aggressive");
  return options;
}

std::shared_ptr<const ObjectiveOptions> read(Section& recipe, const std::filesystem::path& folder) {
  auto options = std::make_shared<LmOptions>();
  if (recipe.has("distill")) options->distill = read_distill(recipe.section("distill"), folder);
  if (recipe.has("early_exit")) options->early_exit = read_early_exit(recipe.section("early_exit"));
  return options;
}

std::unique_ptr<Teacher> make_teacher(const DistillOptions& options, const Recipe& recipe,
                                      TrainBackend& backend, const ObjectiveInputs& inputs) {
  std::optional<LowBitKind> bits;
  if (!options.bits.empty()) bits = options.bits == "nf4" ? LowBitKind::Nf4 : LowBitKind::Int8;
  try {
    auto teacher =
        std::make_unique<Teacher>(options.teacher, bits, inputs.model, inputs.tokenizer, backend);
    teacher->check_context(recipe.context);
    return teacher;
  } catch (const Error& error) {
    fail("{}: key 'distill.teacher': {}", recipe.path.string(), error.what());
  }
}

std::unique_ptr<Objective> make(const Recipe& recipe, TrainBackend& backend,
                                const ObjectiveInputs& inputs) {
  const auto* given = dynamic_cast<const LmOptions*>(recipe.loss_options.get());
  const LmOptions options = given ? *given : LmOptions();
  const Plan plan = inputs.model.prefill_plan();
  if (options.early_exit && plan.loops() < 2)
    fail(
        "{}: key 'early_exit': {} isn't looped (scheme '{}'); expected a model with two loops or more",
        recipe.path.string(), inputs.model.config().where, inputs.model.config().scheme);
  if (options.exit_gate() && !inputs.model.scheme().has_exit_gate())
    fail("{}: key 'early_exit.gate': models of scheme '{}' have no exit gate", recipe.path.string(),
         inputs.model.config().scheme);
  return std::make_unique<Lm>(
      options, plan,
      options.distill ? make_teacher(*options.distill, recipe, backend, inputs) : nullptr);
}

}  // namespace

ObjectiveKind lm_objective() {
  return {"lm", {"distill", "early_exit"}, read, make, /*on_texts=*/true};
}

}  // namespace reprise
