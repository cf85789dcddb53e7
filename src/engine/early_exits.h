// Generated tokens through a looped decode plan, each leaving where its rule says. What a token has
// left to do for the loops it did not run (its keys and values there) is done beside the tokens
// that follow: a block's weights are read once for both, so that even KV as of the full depth costs
// little more than the loops that were run. Or all loops are run and the rule only selects.
#pragma once

#include <memory>
#include <vector>

#include "engine/exit_rule.h"

namespace reprise {

// One token's run.
struct LoopExit {
  int loop = 0;  // at whose end it left, 0-based; the last one: it ran them all
  // [1, d] at the plan's end, before the final norm; of a prompt [its rows, d].
  Tensor state;
  std::vector<float> logits;  // [vocab] of its last row: of what follows the token
  // By loop: the rule's score where it was asked, else NaN. The last loop ends every token, so only
  // rules are asked there that compare two loops.
  std::vector<double> scores;
};

// Of rows that ran all loops: whose loop's state the head reads of each.
struct ExitSelection {
  std::vector<int> loops;                   // by row, 0-based
  Tensor state;                             // [rows, d], that loop's, before the final norm
  Tensor normed;                            // [rows, d], what the head reads
  std::vector<std::vector<double>> scores;  // by row and loop, as in LoopExit but of every loop
};

// Chooses among the states that rows had at the ends of all loops: by loop [rows, d], before its norm.
ExitSelection select_exits(const Model& model, const ExitRule& rule, std::span<const Tensor> ends);
// What a rule is asked with at the loop end that a cohort of tokens (one a segment) stands before.
// Rows of `x`, [rows, d], that are the last of each token: [tokens, d].
Tensor last_rows(const Model& model, const Cohort& cohort, const Tensor& x);
// Whose logits it reads, before the final norm, [tokens, d]; only of rules that read any. Where it
// throws, the cohort's sequences have to be rolled back.
Tensor judged_state(const Model& model, const Runner& runner, const ExitRule& rule,
                    const Cohort& cohort);
// Its scores by token, from those logits [tokens, vocab] (or none) and what each token remembers.
std::vector<double> loop_end_scores(const Model& model, const ExitRule& rule, const Cohort& cohort,
                                    std::span<const float> logits,
                                    std::span<ExitMemory* const> memory);
// Whether positions of a prompt, which runs at full depth, have exits: whose loop the head reads.
bool judges_prompts(const Model& model, const ExitConfig& config);
// Whether a prompt leaves as a generated token does, as a whole.
bool leaves_with_prompts(const Model& model, const ExitConfig& config);

class EarlyExits {
 public:
  // Model and plan must outlive it. Throws Error as Model::check_exit does.
  EarlyExits(const Model& model, const Plan& plan, const ExitConfig& config)
      : model_(model), runner_(model), plan_(plan), rule_(model, plan, config) {}

  const ExitRule& rule() const { return rule_; }
  bool judges_prompts() const { return reprise::judges_prompts(model_, rule_.config()); }

  // Runs rows through all loops of the plan, which must have as many as the rule's, and chooses for
  // the rows `judged`, ascending. When it throws, sequences are as they were.
  ExitSelection select(const Plan& plan, const Rows& rows, Tensor x,
                       std::span<const int32_t> judged, Observer* observer = nullptr) const;

  bool leaves_with_prompts() const { return reprise::leaves_with_prompts(model_, rule_.config()); }

  // Runs one token of each of some requests: rows as Rows::append makes them, x [rows, d]. Their
  // sequences must stay where they are until finish, or until this object is gone. When it throws,
  // sequences are as they were before the earliest token that was not finished yet. A whole prompt
  // counts as one token; `plan` is its own, with the same loops (null: the plan given above).
  std::vector<LoopExit> run(Rows rows, Tensor x, Observer* observer = nullptr,
                            const Plan* plan = nullptr);

  // Does what is left to do of all tokens so far: their KV is then whole. The same on errors.
  void finish();

 private:
  // Tokens that go on together.
  struct Group {
    std::unique_ptr<Cohort> cohort;
    std::vector<size_t> tokens;  // of the call, by row
    std::vector<float> logits;   // [rows, vocab] of the state, where they are known; or none
  };

  void visit(Cohort& cohort);
  // At a loop end: those that leave become a group of their own, in front of it.
  void judge(std::vector<Group>& groups, std::vector<LoopExit>& exits,
             std::vector<ExitMemory>& memory);
  void end(Group& group, std::vector<LoopExit>& exits, std::vector<ExitMemory>& memory) const;
  std::vector<LoopExit> run_selecting(const Rows& rows, Tensor x, Observer* observer) const;
  std::vector<float> logits(const Tensor& state) const;
  void roll_back();

  const Model& model_;
  Runner runner_;
  const Plan& plan_;
  ExitRule rule_;
  std::vector<std::unique_ptr<Cohort>> rest_;  // of tokens that left, in the order they ran in
};

}  // namespace reprise
