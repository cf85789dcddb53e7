#include "eval/plan_score.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/logits.h"
#include "eval/perplexity.h"

namespace reprise {
namespace {

// Plans over one prompt, as a tree of the steps that they have in common.
class PlanTree {
 public:
  PlanTree(const Model& model, const JudgedPrompt& judged, std::span<const Plan> plans,
           const std::function<bool()>& cancelled)
      : model_(model), judged_(judged), plans_(plans), cancelled_(cancelled), nll_(plans.size()) {}

  // `shared`: as a tree; else one after the other.
  std::vector<double> run(bool shared) {
    const TokenPrompt& prompt = judged_.prompt;
    const Tensor x = embed_prompt(model_, prompt, 0, prompt.size());
    std::vector<size_t> all(plans_.size());
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = i;
      if (shared || stopped_) continue;
      stopped_ = cancelled_ && cancelled_();
      if (!stopped_) nll_[i] = sum(visited(plans_[i], x));
    }
    if (shared) go_on({x, {}}, 0, std::move(all));
    return stopped_ ? std::vector<double>() : std::move(nll_);
  }

 private:
  struct State {
    Tensor x;     // [rows, d]
    Tensor kept;  // the register, where it was saved
  };

  const std::vector<Step>& steps(size_t plan) const { return plans_[plan].steps; }

  // All `plans` (not empty) are equal up to `step`, where they have this state.
  void go_on(State state, size_t step, std::vector<size_t> plans) {
    const size_t end = common_end(plans, step);
    advance(state, plans.front(), step, end);
    if (stopped_) return;
    std::vector<size_t> done;
    std::erase_if(plans, [&](size_t plan) {
      const bool ends = steps(plan).size() == end;
      if (ends) done.push_back(plan);
      return ends;
    });
    if (!done.empty()) {
      const double nats = sum(state.x);
      for (const size_t plan : done) nll_[plan] = nats;
    }
    std::vector<std::vector<size_t>> branches;  // by the next step
    for (const size_t plan : plans) {
      auto it = std::ranges::find_if(branches, [&](const auto& branch) {
        return steps(branch.front())[end] == steps(plan)[end];
      });
      if (it == branches.end()) it = branches.insert(branches.end(), std::vector<size_t>());
      it->push_back(plan);
    }
    for (auto& branch : branches) go_on(state, end, std::move(branch));
  }

  size_t common_end(const std::vector<size_t>& plans, size_t step) const {
    const auto& first = steps(plans.front());
    size_t end = first.size();
    for (const size_t plan : plans) {
      const auto& other = steps(plan);
      size_t same = step;
      while (same < std::min(end, other.size()) && first[same] == other[same]) ++same;
      end = same;
    }
    return end;
  }

  void advance(State& state, size_t plan, size_t begin, size_t end) {
    for (size_t at = begin; at < end && !stopped_;) {
      const Step& step = steps(plan)[at];
      if (std::holds_alternative<Save>(step.op)) {
        state.kept = state.x;
        ++at;
      } else if (const auto* combine = std::get_if<Combine>(&step.op)) {
        state.x = combined(model_.backend(), state.kept, state.x, combine->alpha);
        ++at;
      } else {
        Plan part;
        for (; at < end; ++at) {
          const auto* visit = std::get_if<Visit>(&steps(plan)[at].op);
          if (!visit) break;
          part.visit(visit->block, part.add_kv_row(), visit->adapter, "");
        }
        REPRISE_CHECK(!part.steps.empty(), "a plan that parse_plan doesn't make");
        stopped_ = cancelled_ && cancelled_();
        if (!stopped_) state.x = visited(part, state.x);
      }
    }
  }

  Tensor visited(const Plan& plan, const Tensor& x) const {
    Sequence sequence;
    Rows rows;
    const TokenPrompt& prompt = judged_.prompt;
    rows.append(sequence, prompt.size(), prompt.size());
    if (prompt.image_rows && prompt.image_rows.dim(0) > 0) rows.is_image = prompt.is_image;
    return model_.forward(plan, rows, x);
  }

  double sum(const Tensor& x) const {
    const std::vector<int32_t>& ids = judged_.prompt.ids;
    const int64_t last = judged_.prompt.size() - 1;  // predicts nothing
    const Tensor normed = model_.final_norm(model_.backend().slice(x, 0, judged_.first, last));
    double nats = 0;
    const auto head = [&](const Tensor& rows) {
      return model_.backend().to_host(model_.logits(rows));
    };
    each_logits(model_.backend(), normed, 0, last - judged_.first, head,
                [&](int64_t row, std::span<const float> logits) {
                  const int32_t token = ids[static_cast<size_t>(judged_.first + row + 1)];
                  nats += token_nll(logits, token);
                });
    return std::isnan(nats) ? std::numeric_limits<double>::infinity() : nats;
  }

  const Model& model_;
  const JudgedPrompt& judged_;
  std::span<const Plan> plans_;
  const std::function<bool()>& cancelled_;
  std::vector<double> nll_;
  bool stopped_ = false;
};

}  // namespace

std::vector<JudgedPrompt> judged_windows(std::span<const int32_t> tokens, int64_t ctx,
                                         std::optional<int32_t> bos) {
  std::vector<JudgedPrompt> all;
  for (std::vector<int32_t>& window : perplexity_windows(tokens, ctx, bos)) {
    JudgedPrompt judged;
    judged.prompt.ids = std::move(window);
    judged.first = ctx / 2;
    all.push_back(std::move(judged));
  }
  return all;
}

PlanScorer::PlanScorer(const Model& model) : model_(model) {
  // Whether the scheme keeps something is seen by running one token.
  Plan one;
  one.visit(0, one.add_kv_row(), -1, "");
  Sequence sequence;
  Rows rows;
  rows.append(sequence, 1, 1);
  const int32_t ids[] = {0};
  model.forward(one, rows, model.embed(ids));
  shares_ = !sequence.scheme;
}

std::vector<double> PlanScorer::nll(const JudgedPrompt& judged, std::span<const Plan> plans,
                                    const std::function<bool()>& cancelled) const {
  if (plans.empty()) return {};
  return PlanTree(model_, judged, plans, cancelled).run(shares_);
}

}  // namespace reprise
