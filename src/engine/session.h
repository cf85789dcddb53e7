// One request at the level of token ids: prefill in chunks, then decode token by token. No text, no
// sampling: `reprise trace`, perplexity and beams run on this.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/early_exits.h"
#include "engine/token_prompt.h"
#include "model/model.h"

namespace reprise {

// The plans of one choice of options; shared by all requests that choose the same.
struct Plans {
  Plan prefill;  // for prompts of more than one token
  Plan decode;   // for everything else
};
std::shared_ptr<const Plans> make_plans(const Model& model, const PlanOptions& options = {});

// What the state of a prompt's first tokens depends on.
struct PromptState {
  const Plans* plans;
  const TokenPrompt* prompt;
  const InitialStates* initial;  // null: drawn with seed 0
};
// How many tokens `next` may take from the state of a prompt that has been run, bit for bit what it
// would compute itself: those before the first that differs, pictures included, where plans, rope's
// frequencies and initial states are the same. At least one is left to be run. What a whole prompt
// (Plan::whole_prompts) has computed can't be taken in part.
int64_t shared_tokens(const Model& model, const PromptState& run, const PromptState& next);

class PrefixTree;

class Session {
 public:
  // chunk: most prompt tokens a forward call runs, >= 1 (Error otherwise). The result doesn't
  // depend on it: prompts of plans and rules that want it whole are run in one call. exit: how generated tokens leave loops; a prompt runs at full depth, and its
  // positions have exits where states are selected (EarlyExits::judges_prompts). Throws Error as
  // Model::check_exit does. The model must outlive the session.
  Session(Model& model, std::shared_ptr<const Plans> plans, int64_t chunk = 512,
          const ExitConfig& exit = {});
  Session(const Session&) = delete;  // tokens that left early hold on to its sequence
  Session& operator=(const Session&) = delete;

  // Called for each chunk of the prompt with its first position and what the head reads of its
  // rows, after the final norm: [rows, d].
  using ChunkSink = std::function<void(int64_t first, const Tensor& normed)>;

  // Where initial states of the model come from; before anything is run.
  void set_initial(std::shared_ptr<const InitialStates> initial) {
    sequence_.initial = std::move(initial);
  }
  // Runs the whole prompt, once, first of all. `cancelled` is asked between chunks; returns false
  // when it said so. Tokens found in `prefixes` (serve/prefix_tree.h), where the prompt is then kept,
  // are not run and not shown to the sink. Throws Error when the prompt is empty or its placeholders don't match its image rows. The context's length
  // is the caller's business: some models (dynamic rope) compute beyond it.
  bool prefill(const TokenPrompt& prompt, const ChunkSink& sink, Observer* observer = nullptr,
               PrefixTree* prefixes = nullptr, const std::function<bool()>& cancelled = {});
  // The same for one that only wants to go on: logits [vocab] of the last position; empty when
  // cancelled.
  std::vector<float> prefill(const TokenPrompt& prompt, PrefixTree* prefixes = nullptr,
                             const std::function<bool()>& cancelled = {});
  // Runs one generated token; logits [vocab] of what follows it.
  std::vector<float> decode(int32_t token, Observer* observer = nullptr);
  // The same with what else is known of a token that may leave early; only with such a rule. When
  // it throws, tokens whose deeper keys and values were still to come are forgotten with this one.
  LoopExit decode_exit(int32_t token, Observer* observer = nullptr);
  // Completes the keys and values of all tokens so far; else the next tokens do. Nobody needs it but
  // who looks at the sequence.
  void finish_exits();

  // What the head reads [rows, d] -> logits [rows, vocab], on the host.
  std::vector<float> logits(const Tensor& normed);
  // Of the prompt's positions that were judged (all of them, or the last one where prefill gave its
  // logits alone) the loop, 0-based, whose state the head read; empty where prompts have no exits.
  const std::vector<int>& prompt_loops() const { return prompt_loops_; }
  // Where the prompt left as a whole (ExitConfig::prompts): its run, whose loop prompt_loops says.
  const LoopExit& prompt_exit() const { return prompt_exit_; }

  int64_t length() const { return sequence_.length; }
  int64_t kv_bytes() const { return sequence_.kv_bytes(); }
  int64_t prefix_tokens() const { return prefix_tokens_; }  // of the prompt, taken from the tree
  const Sequence& sequence() const { return sequence_; }
  // Drops what only the prompt needed. Done by the first decode; by hand where there is none.
  void end_prompt();

 private:
  // As prefill; last_only: the sink is only called for the last position, [1, d].
  bool run_prompt(const TokenPrompt& prompt, bool last_only, const ChunkSink& sink,
                  Observer* observer, PrefixTree* prefixes, const std::function<bool()>& cancelled);
  // The next token's row and its embedding [1, d].
  std::pair<Rows, Tensor> next_row(int32_t token, Observer* observer);
  void check(std::span<const float> logits) const;

  Model& model_;
  std::shared_ptr<const Plans> plans_;
  int64_t chunk_;
  Sequence sequence_;
  int64_t prefix_tokens_ = 0;
  const Plan* prompt_plan_ = nullptr;  // until the prompt has ended
  std::vector<int> prompt_loops_;
  LoopExit prompt_exit_;
  std::optional<EarlyExits> exits_;  // behind the sequence: it goes first
};

}  // namespace reprise
