#include "model/model.h"

#include <fmt/format.h>

#include "base/error.h"

namespace reprise {
namespace {

// The rows that make the visit before a Mix as a whole; w [rows] are their mixing weights.
std::vector<int32_t> active_rows(const Mix& mix, const Rows& rows, std::span<const float> w) {
  std::vector<int32_t> active;
  for (size_t row = 0; row < w.size(); ++row) {
    const bool image = !rows.is_image.empty() && rows.is_image[row] != 0;
    const bool kind = mix.tokens == MixTokens::All || image == (mix.tokens == MixTokens::Image);
    if (kind && !(w[row] < mix.skip_below)) active.push_back(static_cast<int32_t>(row));
  }
  return active;
}

}  // namespace

Model::Model(ModelConfig config, Backend& backend, const LoadOptions& options)
    : config_(std::move(config)), backend_(backend) {
  scheme_ = make_scheme(config_);
  kv_spec_ = scheme_->kv_spec();
  kv_spec_.type = options.kv_type;
  blocks_.resize(static_cast<size_t>(config_.text.layers));
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
  final_norm_.kind = NormKind::Rms;
  final_norm_.eps = text.final_norm.eps;
  final_norm_.offset = text.final_norm.offset;
  visitor({.name = names_.of("final_norm") + ".weight",
           .shape = {text.d},
           .use = WeightUse::Vector,
           .role = Role::Norm,
           .tensor = &final_norm_.weight,
           .offset = final_norm_.offset});
  if (!text.tied_head)
    visitor({names_.of("head") + ".weight",
             {text.vocab, text.d},
             WeightUse::Matrix,
             Role::Head,
             &head_.weight});
  scheme_->visit_tensors(names_, visitor);
  if (vision_) vision_->visit_tensors(visitor);
}

int64_t Model::parameters() {
  int64_t count = 0;
  visit_tensors([&](const TensorSlot& slot) { count += num_elements(slot.shape); });
  return count;
}

int64_t Model::effective_parameters(const Plan& plan) {
  int64_t count = parameters();
  std::vector<int64_t> of_block;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    int64_t size = 0;
    blocks_[i].visit_tensors(config_.text, names_, static_cast<int>(i),
                             [&](const TensorSlot& slot) { size += num_elements(slot.shape); });
    of_block.push_back(size);
    count -= size;
  }
  for (const Step& step : plan.steps)
    if (const auto* visit = std::get_if<Visit>(&step.op))
      count += of_block[static_cast<size_t>(visit->block)];
  return count;
}

Plan Model::prefill_plan(const PlanOptions& options) const {
  Plan plan = scheme_->prefill_plan(options);
  plan.check(config_.text.layers, "prefill plan");
  return plan;
}

Plan Model::decode_plan(const PlanOptions& options) const {
  Plan plan = scheme_->decode_plan(options);
  plan.check(config_.text.layers, "decode plan");
  return plan;
}

void Model::set_image_token(int64_t id) {
  if (id < 0 || id >= config_.text.embed_rows)
    fail("{}: image placeholder {}: the model's embedding has {} rows", config_.where, id,
         config_.text.embed_rows);
  config_.image_token = id;
}

Tensor Model::embed(std::span<const int32_t> ids) {
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

Tensor Model::final_norm(const Tensor& x) { return backend_.norm(x, final_norm_); }

Tensor Model::logits(const Tensor& normed) {
  return backend_.linear(normed, config_.text.tied_head ? embed_ : head_);
}

Tensor Model::run_visit(const Rows& rows, const Step& step, const std::vector<Tensor>& angles,
                        const Tensor& x, const std::vector<int32_t>* active, Observer* observer) {
  const Visit& visit = std::get<Visit>(step.op);
  Block& block = blocks_[static_cast<size_t>(visit.block)];
  VisitRows args;
  args.rows = &rows;
  args.visit = visit;
  const BlockConfig& config = config_.text.blocks[static_cast<size_t>(visit.block)];
  args.angles = angles[static_cast<size_t>(config.rope)];
  args.observer = observer;
  args.label = step.label.substr(0, step.label.rfind('.'));
  std::vector<int32_t> adapters = scheme_->row_adapters(rows);
  if (adapters.empty() && visit.adapter >= 0)
    adapters.assign(static_cast<size_t>(rows.size()), visit.adapter);
  args.adapters = adapters;
  for (const RowSegment& segment : rows.segments) {
    AttentionSegment entry;
    entry.first_row = segment.first_row;
    entry.rows = segment.rows;
    entry.positions =
        std::span(rows.positions)
            .subspan(static_cast<size_t>(segment.first_row), static_cast<size_t>(segment.rows));
    entry.prefix = segment.prefix;
    if (segment.sequence) {
      auto& kv = segment.sequence->kv;
      KvRow& write = kv[visit.write];
      if (write.positions.empty()) write.spec = kv_spec_;
      entry.write = &write;
      entry.read = &kv.at(visit.read);
    }
    args.attention.push_back(entry);
  }

  const TextConfig& text = config_.text;
  const Qkv qkv = project_qkv(backend_, text, block.attn, args, backend_.norm(x, block.attn_norm));
  Tensor mixed = scheme_->attend(backend_, visit.block, args, qkv);
  mixed = backend_.reshape(mixed, {x.dim(0), int64_t{text.heads} * text.head_dim});
  Tensor in = x;
  if (active) {  // from here on a row concerns nobody but itself
    if (active->empty()) return x;
    mixed = backend_.gather_rows(mixed, *active);
    in = backend_.gather_rows(x, *active);
    if (!adapters.empty()) {
      for (size_t i = 0; i < active->size(); ++i)  // ascending, so nothing is overwritten too early
        adapters[i] = adapters[static_cast<size_t>((*active)[i])];
      adapters.resize(active->size());
      args.adapters = adapters;
    }
  }
  const Tensor attention = backend_.linear(mixed, block.attn.o, args.adapters);
  if (observer && !active) observer->observe(args.label + ".attn", attention);
  const Tensor h = backend_.add(in, attention);
  const Tensor out = backend_.add(
      h, mlp(backend_, text, block.mlp, args.adapters, backend_.norm(h, block.mlp_norm)));
  return active ? backend_.replace_rows(x, *active, out) : out;
}

// The interpreter: all there is to running depth in any order.
Tensor Model::forward(const Plan& plan, const Rows& rows, Tensor x, Observer* observer) {
  REPRISE_CHECK(x.rank() == 2 && x.dim(0) == rows.size() && x.dim(1) == config_.text.d);
  std::vector<Tensor> angles;  // by rope
  for (const RopeConfig& rope : config_.text.ropes)
    angles.push_back(rope_angles(backend_, rope, rows));
  std::vector<Tensor> registers(static_cast<size_t>(plan.registers));
  Tensor before, weight;  // the last visit's input and its mixing weight, for Mix
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    if (std::holds_alternative<Visit>(step.op)) {
      const auto* mix =
          i + 1 < plan.steps.size() ? std::get_if<Mix>(&plan.steps[i + 1].op) : nullptr;
      const bool skips = mix && mix->skips();
      std::vector<int32_t> active;
      if (mix) {  // held only where it is needed
        before = x;
        weight = scheme_->mix_weight(backend_, *mix, x);
        if (skips) active = active_rows(*mix, rows, backend_.to_host(weight));
      }
      const bool all = active.size() == static_cast<size_t>(rows.size());
      const bool some = skips && !all;
      if (visit_wrapper_)
        x = visit_wrapper_(x, [this, &rows, step, angles, active, some](const Tensor& in) {
          return run_visit(rows, step, angles, in, some ? &active : nullptr, nullptr);
        });
      else
        x = run_visit(rows, step, angles, x, some ? &active : nullptr, observer);
    } else if (std::holds_alternative<Mix>(step.op)) {
      if (observer)
        observer->observe(step.label.substr(0, step.label.rfind('.')) + ".mix_w", weight);
      x = backend_.lerp(before, x, weight);
      before = weight = Tensor();
    } else if (const auto* save = std::get_if<Save>(&step.op)) {
      registers[static_cast<size_t>(save->reg)] = x;
    } else if (const auto* combine = std::get_if<Combine>(&step.op)) {
      const Tensor& kept = registers[static_cast<size_t>(combine->reg)];
      x = backend_.add(kept, backend_.add(x, kept, -1.0f), combine->alpha);
    } else if (const auto* end = std::get_if<LoopEnd>(&step.op)) {
      if (observer && observer->wants(step.label)) {
        observer->observe(step.label + ".hidden", x);
        observer->observe(step.label + ".logits", logits(final_norm(x)));
      }
      if (end->norm) x = final_norm(x);
      continue;  // its label names the two tensors above
    }
    if (observer && !step.label.empty()) observer->observe(step.label, x);
  }
  for (const RowSegment& segment : rows.segments)
    if (segment.sequence) segment.sequence->length += segment.rows;
  return x;
}

}  // namespace reprise
