#include "engine/branches.h"

namespace reprise {

std::vector<float> Branches::step(std::span<const int> parents, std::span<const int32_t> tokens) {
  REPRISE_CHECK(parents.size() == tokens.size() && !tokens.empty());
  Backend& be = model_.backend();
  std::vector<Sequence> next;
  if (branches_.empty()) {
    for (const int parent : parents) {
      REPRISE_CHECK(parent == 0);
      next.push_back(prompt_.fork(be));
    }
  } else {
    std::vector<int> children(branches_.size());
    for (const int parent : parents) ++children.at(static_cast<size_t>(parent));
    for (const int parent : parents) {
      Sequence& from = branches_[static_cast<size_t>(parent)];
      // The last child takes its parent's pages as they are.
      const bool last = --children[static_cast<size_t>(parent)] == 0;
      next.push_back(last ? std::move(from) : from.fork(be));
    }
  }
  branches_ = std::move(next);
  Rows rows;
  for (Sequence& branch : branches_) rows.append(branch, 1, branch.length + 1);
  if (exits_) {
    std::vector<float> logits;
    for (const LoopExit& exit : exits_->run(std::move(rows), model_.embed(tokens))) {
      logits.insert(logits.end(), exit.logits.begin(), exit.logits.end());
      loops_run_ += exit.loop + 1;
      ++tokens_run_;
    }
    exits_->finish();  // the sequences are about to move
    return logits;
  }
  const Tensor state = model_.forward(plans_->decode, rows, model_.embed(tokens));
  return be.to_host(model_.logits(model_.final_norm(state)));
}

}  // namespace reprise
