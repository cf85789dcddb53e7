#include "train/objectives/lm_terms.h"

#include "base/error.h"

namespace reprise {

std::vector<double> weighted_exits(int loops) {
  std::vector<double> weights;
  const double sum = loops * (loops + 1) / 2.0;
  for (int i = 1; i <= loops; ++i) weights.push_back(i / sum);
  return weights;
}

std::vector<double> aggressive_exits(int loops, double alpha) {
  std::vector<double> weights(static_cast<size_t>(loops), alpha);
  weights.back() = 1;
  return weights;
}

LmExits::LmExits(const Plan& plan) {
  for (const Step& step : plan.steps) {
    const auto* end = std::get_if<LoopEnd>(&step.op);
    if (!end) continue;
    Plan coda = plan;
    coda.steps.clear();
    if (end->coda >= 0) coda.steps.assign(plan.steps.begin() + end->coda, plan.steps.end());
    codas_.push_back(std::move(coda));
  }
}

Tensor LmExits::output_state(const Model& model, const Batch& batch, const Tensor& state,
                             int exit) const {
  const Plan& coda = codas_[static_cast<size_t>(exit)];
  return coda.steps.empty() ? state : model.forward(coda, batch.rows, state);
}

LmSums::LmSums(Model& model, TrainBackend& backend, const Batch& batch,
               const Model::Results& forward, const LmExits& exits, const Teacher* teacher)
    : model_(model),
      backend_(backend),
      batch_(batch),
      forward_(forward),
      exits_(exits),
      teacher_(teacher),
      exit_logits_(static_cast<size_t>(exits.count())) {}

const Tensor& LmSums::logits(int exit) {
  Tensor& logits = exit == kFinalExit ? output_ : exit_logits_[static_cast<size_t>(exit)];
  if (!logits)
    logits = target_logits(
        model_, batch_,
        exit == kFinalExit
            ? forward_.state
            : exits_.output_state(model_, batch_, forward_.exits[static_cast<size_t>(exit)], exit));
  return logits;
}

Tensor LmSums::sum(const LmTerm& term) {
  REPRISE_CHECK(term.exit < static_cast<int>(forward_.exits.size()), "exit {}", term.exit);
  switch (term.kind) {
    case LmTerm::Kind::CrossEntropy:
      return backend_.cross_entropy_sum(logits(term.exit), batch_.targets);
    case LmTerm::Kind::Teacher:
      REPRISE_CHECK(teacher_);
      if (!teacher_logits_) teacher_logits_ = teacher_->logits(batch_);
      return backend_.divergence_sum(teacher_logits_, logits(term.exit), term.divergence,
                                     static_cast<float>(term.temperature));
    case LmTerm::Kind::Distill:
      return backend_.divergence_sum(logits(kFinalExit), logits(term.exit), Divergence::ForwardKl,
                                     1);
    case LmTerm::Kind::Gate:
      return gate_sum(term.exit);
  }
  REPRISE_CHECK(false);
  return {};
}

Tensor LmSums::gate_sum(int exit) {
  if (output_tokens_.empty()) output_tokens_ = backend_.argmax(logits(kFinalExit));
  return exit_gate_sum(model_, backend_, batch_, forward_.exits[static_cast<size_t>(exit)],
                       backend_.argmax(logits(exit)), output_tokens_);
}

Tensor exit_gate_sum(Model& model, TrainBackend& backend, const Batch& batch, const Tensor& state,
                     std::span<const int32_t> tokens, std::span<const int32_t> output_tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  // -log sigmoid(g) where the tokens agree, -log sigmoid(-g) where they don't.
  std::vector<float> signs(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) signs[i] = tokens[i] == output_tokens[i] ? 1 : -1;
  const Tensor constant = backend.detach(target_states(backend, batch, state));
  const Tensor gate = backend.reshape(model.scheme().exit_gate(backend, constant), {n});
  const std::vector<float> minus(tokens.size(), -1.0f);
  return backend.weighted_sums(
      backend.log_sigmoid(backend.mul(gate, backend.from_host(signs, {n}))), minus);
}

}  // namespace reprise
