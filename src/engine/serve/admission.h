// Who waits, and who may begin: the queue and the KV budget.
//
// A request is admitted once the budget has reserved what its tokens so far take and what
// `reserve_ahead` more will. It grows by as much again; where that isn't free, the scheduler takes
// the KV of others away, who then wait here again and are run up to where they were.
//
// It begins with what the prefix tree has of its prompt and reserves that much less. When room is
// needed, entries that nobody uses are dropped first.
//
// Those of higher priority come first, among equals those that came earlier; one that doesn't fit
// is passed over by smaller ones, but at most `passed_over` times by requests that came after it:
// then nobody is admitted before it.
#pragma once

#include <memory>
#include <vector>

#include "engine/serve/live.h"

namespace reprise {

struct AdmissionOptions {
  int64_t kv_budget = 0;        // bytes of all requests' KV pages; 0: no limit
  int64_t most_running = 64;    // requests, >= 1
  int64_t reserve_ahead = 128;  // tokens of the answer, >= 1
  int64_t passed_over = 16;     // >= 0

  void check() const;  // Throws Error naming the option that is out of range.
};

class Admission {
 public:
  // The model must outlive it.
  Admission(const Model& model, const AdmissionOptions& options, const PrefixOptions& prefixes);

  // Throws Error where the budget has no room for the prompt and one token, ever.
  void check_fits(const Live& live) const;
  void wait(std::unique_ptr<Live> live);
  // The next one that may begin beside so many, its reservation made; null: none.
  std::unique_ptr<Live> next(size_t running);
  // Room for `tokens` tokens of a request that runs, and some ahead; false: that isn't free.
  bool grow(Live& live, int64_t tokens);
  // Fills a sequence of which nothing of its own has been run with the first tokens of another one,
  // which must be equal and run; false: it has no room any more, and nothing is taken.
  bool take(Live& live, const Sequence& from, int64_t tokens);
  // What the tree has for it.
  PrefixTree::Found find(Live& live);
  PrefixTree& tree() { return tree_; }
  const PrefixTree& tree() const { return tree_; }

  // Those that wait, in no order that lasts.
  std::vector<std::unique_ptr<Live>>& waiting() { return waiting_; }
  KvBudget::Usage usage() const { return budget_->usage(); }
  const KvBudget& budget() const { return *budget_; }

  // Whether a is more important than b: for who goes first, and who keeps its KV.
  static bool before(const Live& a, const Live& b);

 private:
  bool admit(Live& live, bool alone);
  // Room for so many tokens of one that is to begin, for which entries are dropped if need be.
  bool reserve(Live& live, int64_t tokens);
  int64_t bytes_for(const Live& live, int64_t tokens) const;
  // Notes what is shared when so many tokens are taken from another one.
  void note_shared(Live& live, const Sequence& from, int64_t tokens) const;
  // Of `tokens`, which have to be there, with those ahead that the answer may still have.
  int64_t with_ahead(const Live& live, int64_t tokens) const;

  const AdmissionOptions options_;
  const Model& model_;
  const KvSpec spec_;
  const std::shared_ptr<KvBudget> budget_;
  PrefixTree tree_;
  std::vector<std::unique_ptr<Live>> waiting_;  // by before()
};

}  // namespace reprise
