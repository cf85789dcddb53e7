// Cohorts under way and whose rows they hold. It moves them; who leaves is decided by others.
#pragma once

#include <list>
#include <memory>
#include <span>
#include <vector>

#include "engine/serve/live.h"

namespace reprise {

// Rows that run together until they part.
struct Group {
  enum class Work {
    Prompt,  // a chunk of one request's prompt
    Decode,  // a token each of requests with equal plans and exits
    Rerun,   // one request's tokens that left at the same loop end when they were run before
    Rest,    // deeper steps of tokens that have left, for their keys and values
  };
  Work work = Work::Decode;
  std::unique_ptr<Cohort> cohort;
  std::vector<Live*> owners;  // by segment
  std::vector<Tensor> ends;   // where states are selected: by loop, those of wanted(), [wanted, d]

  const Live& first() const { return *owners[0]; }
  // The rows whose logits somebody waits for.
  std::vector<int32_t> wanted() const;
  // Whether it holds the last position of a prompt.
  bool ends_prompt() const;
  // Whether it stands at a loop end where its rows may leave.
  bool to_be_judged() const;
};

class Crew {
 public:
  // Both must outlive it.
  Crew(const Model& model, const Runner& runner) : model_(model), runner_(runner) {}

  // The next `count` tokens of these requests (several: one each), x [rows, d] all of them. When it
  // throws, they are as they were.
  void start(Group::Work work, const Plan& plan, std::span<Live* const> owners, int64_t count,
             Tensor x);
  // Who can run at this block now. One that has to run alone is returned alone.
  std::vector<Group*> waiting(int block);
  // A visit of the block they all wait at. When it throws, all their requests have to be removed.
  void visit(std::span<Group* const> groups);
  std::vector<Group*> to_be_judged();
  // At the loop end it stands at the rows `leave` (ascending) go, the others stay. Returns the group
  // that those who left have become: at the plan's coda, or done. Null where nobody leaves.
  Group* part(Group& group, const std::vector<size_t>& leave);
  // Groups that are done, taken out.
  std::list<Group> take_done();
  // All rows of a request, whatever they are at.
  void remove(const Live& live);
  // The groups themselves: of a visit that failed, they are no longer in order.
  void discard(std::span<Group* const> groups);

  bool empty() const { return groups_.empty(); }
  // Whether there are rows beside those of tokens that have left.
  bool any_live() const;

 private:
  // Past loop ends where nothing is decided.
  void advance(Group& group);

  const Model& model_;
  const Runner& runner_;
  std::list<Group> groups_;
};

}  // namespace reprise
