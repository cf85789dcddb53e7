// Prompts that have been run, for those that begin the same way: across requests and turns.
//
// Kept is a prompt's state before rows of the prompt's lifetime are dropped. Taken is only what a
// prompt would compute itself (shared_tokens, session.h), so no bit depends on what is kept.
// A prompt that is run in one piece, because its plan's result depends on the pieces or because it
// leaves the loops as a whole, has nothing in common with others but can be equal to one: it is
// kept with what the model answered, and taken whole.
//
// The tree is an ordered set: prompts sorted by what their state depends on and then token by token,
// pictures as tokens. In that order those with the longest common head are neighbours, so a look-up
// is one binary search, however many entries begin alike (thousands of conversations behind one
// system text share all blocks of it: an index by the hash of the first block would be a list of
// them). Nodes of a radix tree would say the same with more to keep in order: what is common is
// stored once without them, because KV pages are shared by reference.
//
// An entry of which another is the beginning makes that one superfluous. Used by one thread.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "engine/session.h"

namespace reprise {

struct PrefixOptions {
  // Most bytes that entries hold: pages, each counted once, and answers of whole prompts; 0: nothing
  // is kept or shared. They are part of the KV budget.
  int64_t bytes = 0;
  int64_t least_tokens = kKvPageTokens;  // that are worth sharing, >= 1
  // Answers are kept behind their prompts, where a prompt that goes on with one would be computed in
  // the same way: for the turns of a conversation.
  bool answers = false;

  void check() const;  // Throws Error naming the option that is out of range.
};

// What became of a prompt that was run in one piece.
struct WholePrompt {
  ExitConfig exit;            // it depends on this, too
  std::vector<float> logits;  // [vocab] of its last position
  int loop = 0;               // whose logits they are
  int left_at = -1;           // the loop it left at as a whole; -1: it didn't
};

struct PrefixEntry {
  std::shared_ptr<const Plans> plans;
  TokenPrompt prompt;  // without image rows
  Sequence sequence;   // of its first sequence.length tokens
  std::optional<WholePrompt> whole;
  // Who holds it pins the entry, but doesn't keep it alive when it is dropped all the same.
  const std::shared_ptr<const char> pin = std::make_shared<const char>();

  PromptState state() const { return {plans.get(), &prompt, sequence.initial.get()}; }
};

class PrefixTree {
 public:
  // Who holds an entry pins it and keeps its pages.
  using Entry = std::shared_ptr<const PrefixEntry>;
  struct Found {
    Entry entry;  // null: nothing fits
    int64_t tokens = 0;
  };

  // The model must outlive it.
  PrefixTree(const Model& model, std::shared_ptr<KvBudget> budget, const PrefixOptions& options);
  // Bounded by the options alone.
  PrefixTree(const Model& model, const PrefixOptions& options);

  bool on() const { return options_.bytes > 0; }
  int64_t least_tokens() const { return options_.least_tokens; }
  // The most that there is of this prompt. whole: the exits of one that is run in one piece.
  Found find(const PromptState& prompt, const ExitConfig* whole = nullptr);
  // Keeps a prompt, or knows it already; sequence: just this prompt, nothing of it under way.
  // Returns the entry that has all of it, or null: there is no room, or it is too short.
  Entry put(const std::shared_ptr<const Plans>& plans, const TokenPrompt& prompt,
            const Sequence& sequence, std::optional<WholePrompt> whole = {});
  // It was used: others are dropped before it.
  void touch(const Entry& entry);
  // Drops the entry that was used least recently, of those that nobody holds; false: there is none.
  bool drop_one();
  void clear();

  int64_t bytes() const { return bytes_; }
  size_t size() const { return order_.size(); }
  // Changes whenever entries come or go.
  uint64_t version() const { return version_; }
  std::vector<const KvRow*> rows() const;  // of all entries

 private:
  using Place = std::list<Entry>::iterator;
  struct Key {
    PromptState state;
    int64_t tokens;  // the first of the prompt
    bool whole;
  };
  struct Less {
    using is_transparent = void;
    const Model* model;
    static Key key(const Place& place);
    bool operator()(const Key& a, const Key& b) const;
    bool operator()(const Place& a, const Place& b) const { return (*this)(key(a), key(b)); }
    bool operator()(const Place& a, const Key& b) const { return (*this)(key(a), b); }
    bool operator()(const Key& a, const Place& b) const { return (*this)(a, key(b)); }
  };

  int64_t common(const Entry& entry, const Key& key) const;
  void drop(Place place);
  void count(const PrefixEntry& entry, int sign);

  const Model& model_;
  const std::shared_ptr<KvBudget> budget_;
  const PrefixOptions options_;
  std::list<Entry> entries_;  // latest first
  std::set<Place, Less> order_;
  std::unordered_map<const KvPage*, int64_t> pages_;  // by how many entries' rows hold them
  int64_t bytes_ = 0;
  uint64_t version_ = 1;
};

}  // namespace reprise
