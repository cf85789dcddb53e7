// A request while the scheduler has it.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "engine/exit_rule.h"
#include "engine/serve/prefix_tree.h"
#include "engine/serve/request.h"

namespace reprise {

struct Live {
  Live(const Model& model, ServeRequest asked);

  RequestId id = 0;
  const ServeRequest request;
  const std::optional<ExitRule> rule;  // none: nothing leaves early
  const bool prompt_leaves;            // the prompt leaves as a generated token does
  Answer answer;
  Sequence sequence;                         // its length: tokens that have been started
  std::optional<KvReservation> reservation;  // while it runs, under a budget
  int64_t room = 0;                          // tokens that it surely has KV for
  bool prompt_done = false;
  // Of the prompt: its first tokens that others had run, the bytes of their pages that they share
  // (of all rows, and of those that outlast the prompt), and what is held in the tree for that.
  int64_t taken = 0;
  int64_t shared_bytes = 0, lasting_shared_bytes = 0;
  std::shared_ptr<const char> pin;
  int64_t cached_tokens = 0;         // those of the prompt's first run
  std::optional<WholePrompt> whole;  // until its entry is made, where it has one
  // What the tree had when it was last asked, while that is so.
  std::weak_ptr<const PrefixEntry> known_entry;
  int64_t known_tokens = 0;
  uint64_t known_version = 0;
  // By generated token that has been run, the loop it left at. Kept when its KV is dropped: it is
  // then run again up to here without being judged.
  std::vector<int> exits;
  int prompt_left = -1;     // the same of the prompt, where it leaves as a whole; -1: it didn't
  ExitMemory memory;        // of the token under way
  int left_at = -1;         // the loop it left at; -1: it didn't
  int64_t passed_over = 0;  // requests admitted before it that came after it
  // One of several requests whose visit failed: runs by itself until it has a token more, so that
  // who is to blame is found and the others go on.
  bool alone = false;

  int64_t prompt_size() const { return request.prompt.size(); }
  bool in_prompt() const { return sequence.length < prompt_size(); }
  // Generated tokens that have been started.
  int64_t generated() const { return sequence.length - prompt_size(); }
  bool reruns() const { return !in_prompt() && generated() < std::ssize(exits); }
  // Whether a chosen token waits to be run.
  bool has_next() const {
    return prompt_done && !reruns() && generated() < std::ssize(answer.tokens());
  }
  // Whether a token that is to run must wait for the request's rows under way.
  bool must_wait() const;
  // Whether tokens that are run again may not do so together: each needs what the one before has
  // left at its end.
  bool one_by_one() const;
  // The whole prompt is one cohort: its plan's result depends on how it is cut, or it leaves.
  bool whole_prompt() const { return prompt_leaves || prompt_plan().whole_prompts(); }
  PromptState prompt_state() const {
    return {request.plans.get(), &request.prompt, sequence.initial.get()};
  }
  // Whether prompts that are equal may have it in common, or begin with it.
  bool shares() const { return prompt_size() > 1 && !(prompt_leaves && request.forced_exits); }
  // Whether what has been run of the answer is to the bit what a prompt would be that goes on with
  // it, and is all there.
  bool answers_are_prompts(const Model& model) const;
  // Whether nothing of it has been run that wasn't taken from others.
  bool untouched() const { return sequence.length == taken && sequence.under_way.empty(); }
  // Whether the first tokens have been run, and nothing of them is under way.
  bool has_run(int64_t tokens) const;
  const Plan& prompt_plan() const {
    return prompt_size() > 1 ? request.plans->prefill : request.plans->decode;
  }
  const Plan& decode_plan() const { return request.plans->decode; }
  int last_loop() const { return std::max(decode_plan().loops() - 1, 0); }
  bool selects() const { return rule && rule->config().mode == ExitMode::Select; }
  // An empty sequence, of the same account: nothing has been taken.
  void clear_sequence();
  // Drops all KV; it starts again and comes to where it was.
  void rewind();
};

}  // namespace reprise
