#include "train/lm_trace.h"

#include <algorithm>

#include "base/error.h"
#include "formats/safetensors.h"
#include "train/data/text_batches.h"
#include "train/objectives/lm_terms.h"

namespace reprise {
namespace {

constexpr double kAlpha = 0.1;

struct NamedLoss {
  std::string name;
  std::vector<std::pair<LmTerm, double>> terms;  // with weights
};

// Cross entropy at all exits and, distilled, the divergence of the earlier ones from the last.
NamedLoss at_exits(const std::string& name, const std::vector<double>& weights, bool distill) {
  NamedLoss loss{name, {}};
  loss.terms.emplace_back(LmTerm{}, weights.back());
  for (int i = 0; i + 1 < static_cast<int>(weights.size()); ++i) {
    const double weight = weights[static_cast<size_t>(i)];
    loss.terms.emplace_back(LmTerm{.exit = i}, weight);
    if (distill) loss.terms.emplace_back(LmTerm{.kind = LmTerm::Kind::Distill, .exit = i}, weight);
  }
  return loss;
}

NamedLoss alone(const std::string& name, const LmTerm& term) {
  NamedLoss loss{name, {}};
  loss.terms.emplace_back(term, 1.0);
  return loss;
}

std::vector<NamedLoss> all_losses(int loops, bool teacher) {
  std::vector<NamedLoss> losses = {alone("ce", {})};
  if (teacher)
    for (const NamedDivergence& divergence : kDivergences)
      losses.push_back(
          alone(divergence.name, {.kind = LmTerm::Kind::Teacher, .divergence = divergence.kind}));
  if (loops < 2) return losses;
  for (int i = 0; i + 1 < loops; ++i) {
    losses.push_back(alone(fmt::format("exit.{}.ce", i), {.exit = i}));
    losses.push_back(
        alone(fmt::format("exit.{}.kd", i), {.kind = LmTerm::Kind::Distill, .exit = i}));
  }
  for (const bool distill : {false, true}) {
    const std::string end = distill ? "_kd" : "";
    losses.push_back(at_exits("weighted" + end, weighted_exits(loops), distill));
    losses.push_back(at_exits("aggressive" + end, aggressive_exits(loops, kAlpha), distill));
  }
  return losses;
}

Batch read_batch(const std::filesystem::path& path, const TextConfig& config) {
  const int64_t limit = context_limit(config);
  TokenSourceOptions options;
  options.vocab = std::min(config.vocab, config.embed_rows);
  const auto source = open_token_source({TextSource::Kind::Tokens, path, ""}, options);
  if (limit > 0 && source->context() > limit)
    fail("{}: tensor 'tokens': rows of {} tokens, the model's context is {}", path.string(),
         source->context(), limit);
  Batch batch;
  std::vector<int32_t> tokens(static_cast<size_t>(source->context()) + 1);
  for (int64_t row = 0; row < source->rows(); ++row) {
    source->read(row, tokens);
    add_token_row(tokens, batch);
  }
  return batch;
}

TensorView scalar(const std::string& name, double value) {
  const float values[] = {static_cast<float>(value)};
  return make_view(name, Shape{1}, std::span<const float>(values));
}

void check_name(const std::string& name, const std::vector<NamedLoss>& losses) {
  std::string list;
  for (const NamedLoss& loss : losses) {
    if (name.empty() || loss.name == name) return;
    list += (list.empty() ? "" : ", ") + loss.name;
  }
  fail("--loss: expected one of {}, found '{}' (divergences need --teacher)", list, name);
}

}  // namespace

bool has_lm_tokens(const std::filesystem::path& file) {
  const WeightFile weights = open_safetensors(file).weights;
  return weights.find("tokens") && !weights.find("labels") && !weights.find("input_ids");
}

std::vector<TensorView> trace_lm_losses(LoadedModel& loaded, const std::filesystem::path& file,
                                        const LmTraceOptions& options) {
  auto* backend = dynamic_cast<TrainBackend*>(&loaded.backend());
  if (!backend)
    fail("{}: tensor 'tokens' asks for losses, which need --backend torch", file.string());
  Model& model = loaded.model();
  const Plan plan = model.prefill_plan();
  const LmExits exits(plan);
  const std::vector<NamedLoss> losses = all_losses(exits.count(), !options.teacher.empty());
  check_name(options.loss, losses);
  const Batch batch = read_batch(file, loaded.config().text);
  std::unique_ptr<Teacher> teacher;
  if (!options.teacher.empty())
    teacher = std::make_unique<Teacher>(options.teacher, std::nullopt, model, nullptr, *backend);

  std::vector<Tensor> weights;
  model.visit_tensors([&](const TensorSlot& slot) {
    backend->set_trainable(*slot.tensor, true);
    weights.push_back(*slot.tensor);
  });
  backend->set_recording(true);
  std::vector<TensorView> out;
  for (const NamedLoss& named : losses) {
    const Model::Results forward = run_forward(model, plan, batch, /*exits=*/true);
    LmSums sums(model, *backend, batch, forward, exits, teacher.get());
    Tensor loss;
    for (const auto& [term, weight] : named.terms) {
      const auto factor = static_cast<float>(weight / static_cast<double>(batch.targets.size()));
      const Tensor sum = sums.sum(term);
      loss = loss ? backend->add(loss, sum, factor) : backend->scale(sum, factor);
    }
    backend->zero_gradients(weights);
    backend->backward(loss);
    out.push_back(scalar("loss." + named.name, backend->to_host(loss)[0]));
    out.push_back(scalar("gradnorm." + named.name, backend->clip_gradients(weights, 0)));
    if (named.name != options.loss) continue;
    model.visit_tensors([&](const TensorSlot& slot) {
      out.push_back(make_view("grad." + slot.name, slot.shape,
                              std::span<const float>(backend->gradient(*slot.tensor))));
    });
  }
  backend->set_recording(false);
  return out;
}

}  // namespace reprise
