// Several continuations of one prompt side by side (beams), in one forward call a step.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/session.h"

namespace reprise {

class Branches {
 public:
  // Goes on from where a session is, which is left as it is. exit: how tokens leave loops; throws
  // Error as Model::check_exit does. The model must outlive the branches.
  Branches(Model& model, std::shared_ptr<const Plans> plans, const Session& session,
           const ExitConfig& exit = {})
      : model_(model), plans_(std::move(plans)), prompt_(session.sequence()) {
    if (exit.active()) exits_.emplace(model_, plans_->decode, exit);
  }

  // Continuation i goes on from continuation parents[i] of the last call (of the first call: 0, the
  // prompt) with tokens[i]. Returns logits [tokens, vocab]. Pages of KV are shared for as long as
  // they are equal; continuations that none goes on from are dropped.
  std::vector<float> step(std::span<const int> parents, std::span<const int32_t> tokens);

  int64_t size() const { return static_cast<int64_t>(branches_.size()); }
  // Of all continuations; shared pages are counted once.
  int64_t kv_bytes() const { return kv_bytes_held(branches_); }
  // With an exit rule: loops that all tokens so far ran before they left, and the tokens.
  int64_t loops_run() const { return loops_run_; }
  int64_t tokens_run() const { return tokens_run_; }

 private:
  Model& model_;
  std::shared_ptr<const Plans> plans_;
  const Sequence& prompt_;
  std::vector<Sequence> branches_;  // none before the first step
  std::optional<EarlyExits> exits_;
  int64_t loops_run_ = 0, tokens_run_ = 0;
};

}  // namespace reprise
