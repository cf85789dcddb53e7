#include "model/model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "model/scheme_type.h"

namespace reprise {
Model::Model(ModelConfig config, Backend& backend, const LoadOptions& options,
             std::unique_ptr<Scheme> scheme)
    : config_(std::move(config)), backend_(backend), scheme_(std::move(scheme)) {
  if (!scheme_) scheme_ = make_scheme(config_);
  check_options(config_.scheme, SchemeOption::When::Load, options.scheme);
  kv_spec_ = scheme_->kv_spec();
  kv_spec_.type = options.kv_type;
  blocks_.resize(static_cast<size_t>(config_.text.layers));
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i].set_norms(config_.text.blocks[i].norm);
  set_norm(final_norm_, config_.text.final_norm);
  scheme_->attach(blocks_);
  if (config_.vision) vision_.emplace(*config_.vision, config_.text.d);
}

void Model::visit_tensors(const TensorVisitor& visitor) {
  const TextConfig& text = config_.text;
  visitor({names_.of("embed") + ".weight",
           {text.embed_rows, text.d},
           WeightUse::Table,
           Role::Embedding,
           &embed_.weight});
  for (size_t i = 0; i < blocks_.size(); ++i)
    blocks_[i].visit_tensors(text, names_, static_cast<int>(i), visitor);
  if (!text.final_norm.unit)
    visit_norm(names_.of("final_norm"), text.final_norm, text.d, final_norm_, visitor);
  if (!text.tied_head)
    visitor({names_.of("head") + ".weight",
             {text.vocab, text.d},
             WeightUse::Matrix,
             Role::Head,
             &head_.weight});
  scheme_->visit_tensors(names_, visitor);
  if (vision_) vision_->visit_tensors(visitor);
}

void Model::read_tensors(const TensorReader& reader) const {
  // The visit itself writes nothing, and the reader is given the tensors as const.
  const_cast<Model*>(this)->visit_tensors(
      [&](const TensorSlot& slot) { reader(slot, *slot.tensor); });
}

int64_t Model::parameters() const {
  int64_t count = 0;
  read_tensors([&](const TensorSlot& slot, const Tensor&) { count += num_elements(slot.shape); });
  return count;
}

int64_t Model::effective_parameters(const Plan& plan) const {
  int64_t count = parameters();
  std::vector<int64_t> of_block;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    int64_t size = 0;
    Block block = blocks_[i];  // visiting needs one that may be changed
    block.visit_tensors(config_.text, names_, static_cast<int>(i),
                        [&](const TensorSlot& slot) { size += num_elements(slot.shape); });
    of_block.push_back(size);
    count -= size;
  }
  for (const Step& step : plan.steps)
    if (const auto* visit = std::get_if<Visit>(&step.op))
      count += of_block[static_cast<size_t>(visit->block)];
  return count;
}

PlanOptions Model::with_stored_plan(PlanOptions options) const {
  check_options(config_.scheme, SchemeOption::When::Request, options);
  if (!config_.plan.empty() && !options.has("plan")) options.set("plan", config_.plan);
  return options;
}

Plan Model::prefill_plan(const PlanOptions& options) const {
  Plan plan = scheme_->prefill_plan(with_stored_plan(options));
  plan.check(config_.text.layers, "prefill plan");
  return plan;
}

Plan Model::decode_plan(const PlanOptions& options) const {
  Plan plan = scheme_->decode_plan(with_stored_plan(options));
  plan.check(config_.text.layers, "decode plan");
  return plan;
}

std::string Model::exit_problem(const ExitConfig& exit, const Plan& plan) const {
  if (!exit.active()) return "";
  const int loops = plan.loops();
  if (loops == 0)
    return fmt::format(
        "the plan has no loop end where a token could leave; expected a model with loops, found {}",
        config_.where);
  if (exit.kind == ExitKind::Depth && exit.threshold > loops)
    return fmt::format("expected 1 to {} loops, which is what the plan of {} has", loops,
                       config_.where);
  if (exit.kind == ExitKind::Step && exit.threshold >= loops)
    return fmt::format("expected a loop's number from 0 to {}, the plan of {} has {} loops",
                       loops - 1, config_.where, loops);
  const bool selects = exit.mode == ExitMode::Select;
  if (exit.kind == ExitKind::Weighted && !selects)
    return "the logits of all loops are needed, so none can be left out; expected mode 'select'";
  if (exit.kind == ExitKind::Weighted && config_.text.logit_softcap > 0)
    return fmt::format(
        "{} caps its logits, so that a mean of all loops' is no mean of states; expected another rule",
        config_.where);
  if (selects && !std::holds_alternative<LoopEnd>(plan.steps.back().op))
    return fmt::format(
        "mode 'select': {} has layers behind its loops, which run on one state a token; expected a "
        "model that ends with its last loop, or mode 'skip'",
        config_.where);
  if (exit.kv == ExitKv::Share && !selects)
    if (const int block = plan.unshared_block(); block >= 0)
      return fmt::format(
          "KV 'share': tokens of {} that leave have no entries of block {} yet that its deeper loops "
          "could share; expected propagate, exact or missing",
          config_.where, block);
  const bool gate =
      exit.kind == ExitKind::Gate || exit.kind == ExitKind::Cdf || exit.kind == ExitKind::Weighted;
  if (gate && !scheme_->has_exit_gate())
    return fmt::format(
        "the model has no exit gate; expected \"exit_gate\": true among its scheme's keys in {}, and "
        "the gate's tensors",
        config_.where);
  return "";
}

void Model::check_exit(const ExitConfig& exit, const Plan& plan) const {
  const std::string problem = exit_problem(exit, plan);
  if (!problem.empty()) fail("{}: {}", exit_text(exit), problem);
}

ExitConfig Model::stored_exit(const Plan& plan) const {
  // It is for the model's own plan: another one, without loops, has no use for it.
  if (plan.loops() == 0 && decode_plan().loops() > 0) return {};
  if (!config_.exit_problem.empty()) fail("{}", config_.exit_problem);
  const ExitConfig exit = config_.exit.value_or(ExitConfig());
  const std::string problem = exit_problem(exit, plan);
  if (!problem.empty())
    fail("{}: key 'reprise.exit': {}: {}", config_.where, exit_text(exit), problem);
  return exit;
}

void Model::set_image_token(int64_t id) {
  if (id < 0 || id >= config_.text.embed_rows)
    fail("{}: image placeholder {}: the model's embedding has {} rows", config_.where, id,
         config_.text.embed_rows);
  config_.image_token = id;
}

Tensor Model::embed(std::span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config_.text.embed_rows)
      fail(
          "{}: token {} at position {}: the model's embedding has {} rows; expected a tokenizer "
          "that belongs to the model",
          config_.where, ids[i], i, config_.text.embed_rows);
  const Tensor rows = backend_.embed(embed_.weight, ids);
  const float scale = config_.text.embed_scale;
  return scale == 1 ? rows : backend_.scale(rows, scale);
}

Tensor Model::final_norm(const Tensor& x) const { return backend_.norm(x, final_norm_); }

Tensor Model::logits(const Tensor& normed) const {
  Tensor logits = backend_.linear(normed, head());
  if (scheme_->scales_logits()) logits = scheme_->scaled_logits(backend_, logits);
  const float cap = config_.text.logit_softcap;
  if (cap == 0) return logits;
  return backend_.scale(backend_.unary(backend_.scale(logits, 1 / cap), Unary::Tanh), cap);
}

bool Model::head_gives_logits() const {
  return !scheme_->scales_logits() && config_.text.logit_softcap == 0;
}

Tensor Model::exit_gate(const Tensor& state) const {
  return scheme_->exit_gate(backend_,
                            scheme_->exit_gate_reads_normed() ? final_norm(state) : state);
}

Tensor Model::expected_normed(std::span<const Tensor> ends) const {
  // From the last loop on: with probability lambda_t this loop's, else what lies deeper.
  Tensor expected = final_norm(ends.back());
  for (size_t loop = ends.size() - 1; loop-- > 0;)
    expected = backend_.lerp(expected, final_norm(ends[loop]),
                             backend_.unary(exit_gate(ends[loop]), Unary::Sigmoid));
  return expected;
}

std::vector<Tensor> Model::rope_angles(const Rows& rows) const {
  std::vector<Tensor> angles;
  for (const RopeConfig& rope : config_.text.ropes)
    angles.push_back(reprise::rope_angles(backend_, rope, rows));
  return angles;
}

Tensor Model::run_block(int block, const VisitRows& rows, const Tensor& x,
                        const std::shared_ptr<const Rows>& keep) const {
  const Block& weights = blocks_[static_cast<size_t>(block)];
  if (!visit_wrapper_)
    return reprise::run_block(backend_, config_.text, *scheme_, block, weights, rows, x);
  VisitRows silent = rows;  // what is run again isn't shown again
  silent.watch = Watch();
  return visit_wrapper_(x, [this, block, &weights, silent, keep](const Tensor& in) {
    return reprise::run_block(backend_, config_.text, *scheme_, block, weights, silent, in);
  });
}

Model::Results Model::run(const Plan& plan, const Rows& rows, Tensor x, Observer* observer,
                          bool exits) const {
  const Runner runner(*this);
  Results results;
  std::unique_ptr<Cohort> cohort = runner.start(plan, rows, std::move(x), observer);
  try {
    while (!cohort->done()) {
      if (cohort->visit()) {
        runner.visit(*cohort);
      } else {
        if (exits) results.exits.push_back(cohort->state());
        runner.pass(*cohort);
      }
    }
  } catch (...) {
    Runner::roll_back(std::move(cohort));
    throw;
  }
  results.state = cohort->state();
  return results;
}

}  // namespace reprise
