// The scheduler's prefix tree: what it keeps and gives, and that work is really saved.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "support/golden.h"
#include "support/schedules.h"
#include "support/serve_requests.h"

namespace reprise::test {
namespace {

Kind kind_of(const std::string& name) {
  for (const Kind& kind : kinds())
    if (kind.name == name) return kind;
  ADD_FAILURE() << "no kind " << name;
  return kinds()[0];
}

TokenPrompt text_prompt(int first, int64_t size) {
  TokenPrompt prompt;
  for (int64_t i = 0; i < size; ++i)
    prompt.ids.push_back(4 + static_cast<int32_t>((first + i * 7) % 40));
  return prompt;
}

// The tree alone; entries of prompts that are really run.
class Tree : public testing::Test {
 protected:
  const std::unique_ptr<Backend> be_ = make_backend_of({"cpu", "scalar"}, 1);
  const std::unique_ptr<Model> model_ = make_model(kind_of("dense_and_replay"), *be_);
  const std::shared_ptr<const Plans> plans_ = make_plans(*model_);
  const std::shared_ptr<KvBudget> budget_ = KvBudget::make(int64_t{1} << 30);
  // Of all rows of the model.
  const int64_t page_ = kv_bytes(model_->kv_spec(), std::ssize(plans_->prefill.kv_rows), 1);
  PrefixTree tree_{*model_, budget_, {.bytes = 8 * page_, .least_tokens = 2}};

  PrefixTree::Entry put(PrefixTree& tree, const TokenPrompt& prompt,
                        std::optional<WholePrompt> whole = {}) {
    Session session(*model_, plans_);
    session.prefill(prompt, [](int64_t, const Tensor&) {});
    return tree.put(plans_, prompt, session.sequence(), std::move(whole));
  }
  int64_t found(const TokenPrompt& prompt) {
    return tree_.find({plans_.get(), &prompt, nullptr}).tokens;
  }
  void TearDown() override {
    EXPECT_NO_THROW(check_rows());
    tree_.clear();
    EXPECT_EQ(tree_.bytes(), 0);
    EXPECT_EQ(budget_->usage().reserved, 0);
  }
  void check_rows() const {
    for (const KvRow* row : tree_.rows()) ASSERT_EQ(std::ssize(row->pages), kv_pages(row->entries));
  }
};

TEST_F(Tree, GivesTheLongestCommonHead) {
  for (const int64_t size : {5, 12, 30}) {
    TokenPrompt prompt = text_prompt(0, size);
    prompt.ids.push_back(44);  // all of them end differently from the next
    put(tree_, prompt);
  }
  put(tree_, text_prompt(9, 20));
  EXPECT_EQ(tree_.size(), 4U);
  TokenPrompt asked = text_prompt(0, 40);
  EXPECT_EQ(found(asked), 30);
  asked.ids[20] = 45;
  EXPECT_EQ(found(asked), 20);
  EXPECT_EQ(found(text_prompt(9, 20)), 19);  // one is left to be run
  EXPECT_EQ(found(text_prompt(9, 25)), 20);
  EXPECT_EQ(found(text_prompt(0, 1)), 0);
  asked.ids[1] = 45;
  EXPECT_EQ(found(asked), 0);  // one token is less than is worth it
  EXPECT_EQ(found(text_prompt(3, 9)), 0);
  const auto others = make_plans(*model_);
  EXPECT_EQ(tree_.find({others.get(), &asked, nullptr}).tokens, 0);
}

TEST_F(Tree, WhatIsTheBeginningOfAnotherIsNotKeptTwice) {
  put(tree_, text_prompt(0, 20));
  put(tree_, text_prompt(0, 33));
  EXPECT_EQ(tree_.size(), 1U);
  EXPECT_EQ(tree_.bytes(), 2 * page_);
  const PrefixTree::Entry same = put(tree_, text_prompt(0, 20));
  EXPECT_EQ(same->sequence.length, 33);
  EXPECT_EQ(tree_.size(), 1U);
}

TEST_F(Tree, IsBoundedAndDropsWhatWasUsedLeastRecently) {
  std::vector<TokenPrompt> prompts;
  for (int i = 0; i < 6; ++i) prompts.push_back(text_prompt(i, 40));  // two pages each
  for (int i = 0; i < 4; ++i) put(tree_, prompts[static_cast<size_t>(i)]);
  EXPECT_EQ(tree_.bytes(), 8 * page_);
  tree_.touch(tree_.find({plans_.get(), &prompts[0], nullptr}).entry);
  const PrefixTree::Entry held = tree_.find({plans_.get(), &prompts[1], nullptr}).entry;
  put(tree_, prompts[4]);
  put(tree_, prompts[5]);
  EXPECT_EQ(tree_.bytes(), 8 * page_);
  // 0 was used, 1 is held.
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(found(prompts[i]) > 0, i != 2 && i != 3) << i;
  while (tree_.drop_one()) {
  }
  EXPECT_EQ(tree_.size(), 1U);
  EXPECT_EQ(found(prompts[1]), 39);
  EXPECT_EQ(put(tree_, text_prompt(7, 32 * 9)), nullptr);  // more than there is room for
  EXPECT_EQ(tree_.bytes(), 2 * page_);
}

// The budget has room for no copy of a page that isn't full: whole pages are kept.
TEST_F(Tree, KeepsWholePagesWhereTheBudgetHasNoMore) {
  const TokenPrompt prompt = text_prompt(0, 40);
  const auto none = KvBudget::make(0);
  PrefixTree tree(*model_, none, {.bytes = 8 * page_, .least_tokens = 2});
  put(tree, prompt);
  EXPECT_EQ(tree.find({plans_.get(), &prompt, nullptr}).tokens, 32);
  EXPECT_EQ(tree.bytes(), page_);
  EXPECT_EQ(put(tree, text_prompt(1, 20)), nullptr);
}

TEST_F(Tree, PicturesAreTokens) {
  const auto prompt_of_pictures = [](std::vector<uint8_t> keys) {
    TokenPrompt prompt = text_prompt(0, 3);
    for (const uint8_t key : keys) {
      const int64_t begin = prompt.size();
      prompt.ids.insert(prompt.ids.end(), 4, 3);
      prompt.is_image.resize(static_cast<size_t>(begin));
      prompt.is_image.resize(prompt.ids.size(), 1);
      if (key != 0) prompt.pictures.push_back({{.sha256 = {key}}, begin, begin + 4});
    }
    prompt.ids.push_back(9);
    prompt.is_image.push_back(0);
    return prompt;
  };
  const auto put_pictures = [&](const TokenPrompt& prompt) {
    Session session(*model_, plans_);
    TokenPrompt rows = prompt;
    const int64_t d = model_->config().text.d;
    const int64_t count = std::count(prompt.is_image.begin(), prompt.is_image.end(), 1);
    rows.image_rows =
        be_->from_host(std::vector<float>(static_cast<size_t>(count * d), 0.5f), {count, d});
    session.prefill(rows, [](int64_t, const Tensor&) {});
    tree_.put(plans_, rows, session.sequence());
  };
  put_pictures(prompt_of_pictures({1, 2}));
  put_pictures(prompt_of_pictures({5, 2}));
  EXPECT_EQ(found(prompt_of_pictures({1, 2})), 11);
  EXPECT_EQ(found(prompt_of_pictures({1, 3})), 7);  // a second one keeps what came before it
  EXPECT_EQ(found(prompt_of_pictures({5, 2})), 11);
  EXPECT_EQ(found(prompt_of_pictures({2, 2})), 3);
  EXPECT_EQ(found(prompt_of_pictures({1, 0})), 7);
  put_pictures(prompt_of_pictures({7, 0, 1}));  // the second isn't known
  EXPECT_EQ(found(prompt_of_pictures({7, 0, 1})), 7);
}

TEST_F(Tree, WholePromptsAreEqualOrNothing) {
  const TokenPrompt prompt = text_prompt(0, 20), longer = text_prompt(0, 21);
  const ExitConfig one, other{.kind = ExitKind::Depth, .threshold = 2};
  put(tree_, prompt, WholePrompt{.exit = one, .logits = {1, 2}, .loop = 1});
  const auto ask = [&](const TokenPrompt& what, const ExitConfig& exit) {
    return tree_.find({plans_.get(), &what, nullptr}, &exit);
  };
  EXPECT_EQ(ask(prompt, one).tokens, 20);
  EXPECT_EQ(ask(prompt, one).entry->whole->logits, (std::vector<float>{1, 2}));
  EXPECT_EQ(ask(prompt, other).entry, nullptr);
  EXPECT_EQ(ask(longer, one).entry, nullptr);
  EXPECT_EQ(ask(text_prompt(0, 19), one).entry, nullptr);
  EXPECT_EQ(found(longer), 0);  // nor anything for those that may be cut
  put(tree_, longer, WholePrompt{.exit = one});
  EXPECT_EQ(tree_.size(), 2U);
  put(tree_, prompt, WholePrompt{.exit = other});
  EXPECT_EQ(ask(prompt, other).tokens, 20);
  EXPECT_EQ(ask(prompt, one).entry, nullptr);
}

// ---- In the scheduler

struct Served {
  std::vector<Given> given;
  SchedulerStats stats;
};

Served serve(const Kind& kind, const std::vector<Asked>& asked, const SchedulerOptions& options,
             bool one_by_one, std::vector<int64_t>* cached = nullptr) {
  const auto be = make_backend_of({"cpu", "scalar"}, 1);
  const auto model = make_model(kind, *be);
  PlanStore plans(*model);
  Scheduler scheduler(*model, options);
  Served served;
  served.given.resize(asked.size());
  if (cached) cached->assign(asked.size(), -1);
  for (size_t i = 0; i < asked.size(); ++i) {
    ServeRequest request = serve_request(asked[i], *model, plans, served.given[i]);
    if (cached)
      request.on_event = [&, i, receive = request.on_event](const ServeEvent& event) {
        (*cached)[i] = event.cached_tokens;
        receive(event);
      };
    scheduler.submit(std::move(request));
    if (one_by_one) scheduler.run_until_idle();
  }
  scheduler.run_until_idle();
  scheduler.check();
  for (size_t i = 0; i < asked.size(); ++i)
    expect_same(alone(*model, asked[i]), served.given[i], true);
  served.stats = scheduler.stats();
  return served;
}

SchedulerOptions with_tree() {
  SchedulerOptions options;
  options.prompt_rows = 8;
  options.prefixes = {.bytes = 1 << 24, .least_tokens = 4};
  return options;
}

// 8 requests with one head of 40 tokens: it is run once, whether they come together or in turn.
TEST(ServePrefix, AHeadIsRunOnce) {
  std::vector<Asked> asked(8);
  for (size_t i = 0; i < asked.size(); ++i) {
    asked[i].prompt = text_prompt(0, 40);
    asked[i].prompt.ids.push_back(4 + static_cast<int32_t>(i));
    asked[i].prompt.ids.push_back(20);
    asked[i].rules.max_tokens = 5;
  }
  const Kind kind = kind_of("recursive");
  EXPECT_EQ(serve(kind, asked, {}, false).stats.prompt_tokens, 8 * 42);
  for (const bool one_by_one : {false, true}) {
    std::vector<int64_t> cached;
    const Served served = serve(kind, asked, with_tree(), one_by_one, &cached);
    EXPECT_EQ(served.stats.prompt_tokens, 40 + 8 * 2);
    EXPECT_EQ(served.stats.prefix_hits, 7);
    EXPECT_EQ(served.stats.prefix_tokens, 7 * 40);
    EXPECT_EQ(cached, (std::vector<int64_t>{0, 40, 40, 40, 40, 40, 40, 40}));
  }
}

// Prompts that can't be cut: equal ones are run once, with what they answered; also when the answer
// is but one token.
TEST(ServePrefix, EqualWholePromptsAreRunOnce) {
  for (const int64_t tokens : {1, 6}) {
    std::vector<Asked> asked(5);
    for (size_t i = 0; i < asked.size(); ++i) {
      asked[i].prompt = text_prompt(0, 30);
      asked[i].rules.max_tokens = tokens;
      asked[i].rules.sampler = {.temperature = 1, .seed = i};
    }
    asked[3].prompt.ids.back() = 45;
    for (const bool one_by_one : {false, true}) {
      const Served served = serve(kind_of("dory_last_loop"), asked, with_tree(), one_by_one);
      EXPECT_EQ(served.stats.prompt_tokens, 2 * 30);
      EXPECT_EQ(served.stats.prefix_tokens, 3 * 30);
    }
    // They leave as a whole: those with other exits are others.
    for (Asked& one : asked)
      one.exit = {.kind = ExitKind::Depth, .threshold = 2, .kv = ExitKv::Share, .prompts = true};
    asked[4].exit.threshold = 1;
    const Served served = serve(kind_of("huginn"), asked, with_tree(), true);
    EXPECT_EQ(served.stats.prefix_hits, 0);  // initial states of other seeds
    for (Asked& one : asked) one.initial = std::make_shared<const InitialStates>();
    EXPECT_EQ(serve(kind_of("huginn"), asked, with_tree(), true).stats.prefix_hits, 2);
  }
}

// One that lost its KV finds its prompt again; entries go before anybody's KV does, at last also
// its own, for which there is a page only until it needs that itself.
TEST(ServePrefix, TheTreeIsPartOfTheBudget) {
  const Kind kind = kind_of("recursive");
  const auto be = make_backend_of({"cpu", "scalar"}, 1);
  const auto model = make_model(kind, *be);
  SchedulerOptions options = with_tree();
  options.admission.reserve_ahead = 1;
  options.admission.kv_budget =
      kv_bytes(model->kv_spec(), std::ssize(model->decode_plan().kv_rows), 32 * 3);
  std::vector<Asked> asked(4);
  for (size_t i = 0; i < asked.size(); ++i) {
    asked[i].prompt = text_prompt(static_cast<int>(i), 40);
    asked[i].rules.max_tokens = 40;
  }
  EXPECT_EQ(serve(kind, asked, options, true).stats.preemptions, 0);
  PlanStore plans(*model);
  Scheduler scheduler(*model, options);
  Given given;
  const RequestId id = scheduler.submit(serve_request(asked[0], *model, plans, given));
  while (given.tokens.size() < 4) scheduler.sweep();
  scheduler.preempt(id);
  scheduler.run_until_idle();
  expect_same(alone(*model, asked[0]), given, true);
  EXPECT_EQ(scheduler.stats().prefix_tokens, 39);
  EXPECT_EQ(scheduler.stats().prompt_tokens, 41);
}

// A conversation: its next turn takes what its answer has computed, too, where a prompt computes it
// in the same way.
TEST(ServePrefix, AnswersAreKeptForTheNextTurn) {
  SchedulerOptions options = with_tree();
  options.prefixes.least_tokens = 1;
  const ExitConfig depth{.kind = ExitKind::Depth, .threshold = 2};
  struct Case {
    const char* kind;
    ExitConfig exit;
    bool kept;
  };
  for (const Case& c : {Case{"dense_and_replay", {}, true}, Case{"window", {}, true},
                        Case{"recursive", {}, true}, Case{"recursive", depth, false},
                        Case{"huginn", {}, true}, Case{"dory_last_loop", {}, false},
                        Case{"dynamic_rope", {}, false}, Case{"trol", {}, false}}) {
    for (const bool answers : {false, true}) {
      SCOPED_TRACE(fmt::format("{}, exits {}, answers {}", c.kind, c.exit.active(), answers));
      options.prefixes.answers = answers;
      const Kind kind = kind_of(c.kind);
      std::vector<Asked> turns(3);
      turns[0].prompt = text_prompt(0, 20);
      for (Asked& turn : turns) {
        turn.rules.max_tokens = 15;
        turn.exit = c.exit;
        turn.initial = std::make_shared<const InitialStates>();
      }
      const auto be = make_backend_of({"cpu", "scalar"}, 1);
      const auto model = make_model(kind, *be);
      for (size_t i = 1; i < turns.size(); ++i) {
        turns[i].prompt = turns[i - 1].prompt;
        // 3 is a picture's placeholder in some.
        for (const int32_t id : alone(*model, turns[i - 1]).tokens)
          turns[i].prompt.ids.push_back(id == 3 ? 4 : id);
        turns[i].prompt.ids.push_back(9);
        turns[i].prompt.ids.push_back(10);
      }
      std::vector<int64_t> cached;
      serve(kind, turns, options, true, &cached);
      const std::string name = c.kind;
      if (name == "dory_last_loop") {
        EXPECT_EQ(cached, (std::vector<int64_t>{0, 0, 0}));
      } else if (name == "dynamic_rope") {
        EXPECT_EQ(cached[2], 0);       // beyond the context each length has its own keys
      } else if (c.kept && answers) {  // but for the answer's last token, which wasn't run
        EXPECT_EQ(cached, (std::vector<int64_t>{0, 34, 51}));
      } else {
        EXPECT_EQ(cached, (std::vector<int64_t>{0, 20, 37}));
      }
    }
  }
}

TEST(ServePrefix, OptionsAreChecked) {
  EXPECT_THROW(PrefixOptions{.bytes = -1}.check(), Error);
  EXPECT_THROW((PrefixOptions{.least_tokens = 0}.check()), Error);
}

}  // namespace
}  // namespace reprise::test
