// Leaving loops early: what rules say, and that whatever runs beside a token, and whenever its
// deeper keys and values are made, its results are its own to the bit.
#include "engine/early_exits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/factory.h"
#include "base/json_object.h"
#include "engine/branches.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr ExitKv kPolicies[] = {ExitKv::Propagate, ExitKv::Exact, ExitKv::Share};

struct Looped {
  int loops = 3;
  int rank = 0;
  int first = 0, last = 0;  // layers outside of the loops
  bool gate = true;
};

Json looped_config(const Looped& shape) {
  TinyShape tiny;
  tiny.layers = 2 + shape.first + shape.last;
  Json config = tiny_text_config("LlamaForCausalLM", tiny);
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive",
                        {{"loops", shape.loops},
                         {"lora_rank", shape.rank},
                         {"first", shape.first},
                         {"last", shape.last},
                         {"exit_gate", shape.gate}}}};
  return config;
}

class EarlyExitsTest : public testing::Test {
 protected:
  std::unique_ptr<Model> make(const Looped& shape) {
    return tiny_model(looped_config(shape), *backend_);
  }
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {.threads = 2});
};

TokenPrompt prompt_of(std::vector<int32_t> ids) {
  TokenPrompt prompt;
  prompt.ids = std::move(ids);
  return prompt;
}

// A rule of every kind that some tokens of the tiny models meet early and some don't: the median of
// what the rule itself scores.
ExitConfig rule_of(Model& model, ExitKind kind, ExitKv kv) {
  if (kind == ExitKind::Depth) return {kind, 2, kv};
  const ExitConfig never = {kind, kind == ExitKind::Entropy ? 0.0 : 1.0, kv};
  const auto plans = make_plans(model);
  Session session(model, plans, 512, never);
  session.prefill(prompt_of({3, 1, 4, 1, 5}));
  std::vector<double> scores;
  for (int32_t token = 0; token < 12; ++token)
    for (const double score : session.decode_exit(3 * token).scores)
      if (!std::isnan(score)) scores.push_back(score);
  // With two loops no states are compared: the second one ends every token.
  if (scores.empty()) return never;
  std::sort(scores.begin(), scores.end());
  return {kind, scores.at(scores.size() / 2), kv};
}

constexpr ExitKind kKinds[] = {ExitKind::Confidence, ExitKind::Entropy, ExitKind::Similarity,
                               ExitKind::Gate,       ExitKind::Depth,   ExitKind::Cdf};

TEST(ExitScores, OfRowsThatAreKnown) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> even(4, -3.5f), sure = {100, -inf, 0, -200};
  EXPECT_DOUBLE_EQ(confidence(even), 0.25);
  EXPECT_DOUBLE_EQ(entropy(even), std::log(4.0));
  EXPECT_NEAR(confidence(sure), 1, 1e-12);
  EXPECT_NEAR(entropy(sure), 0, 1e-12);
  const std::vector<float> two = {std::log(3.0f), 0};  // 3/4, 1/4
  EXPECT_NEAR(confidence(two), 0.75, 1e-7);
  EXPECT_NEAR(entropy(two), -0.75 * std::log(0.75) - 0.25 * std::log(0.25), 1e-7);
  const std::vector<float> a = {1, 0}, b = {2, 2}, c = {-3, 0}, zero = {0, 0};
  EXPECT_NEAR(cosine(a, b), std::sqrt(0.5), 1e-12);
  EXPECT_DOUBLE_EQ(cosine(a, c), -1);
  EXPECT_DOUBLE_EQ(cosine(a, zero), 0);
}

TEST(ExitConfig, Texts) {
  EXPECT_EQ(parse_exit("none"), ExitConfig());
  EXPECT_EQ(parse_exit("confidence:0.9"), (ExitConfig{ExitKind::Confidence, 0.9}));
  EXPECT_EQ(parse_exit("entropy:2.5"), (ExitConfig{ExitKind::Entropy, 2.5}));
  EXPECT_EQ(parse_exit("similarity:-0.5"), (ExitConfig{ExitKind::Similarity, -0.5}));
  EXPECT_EQ(parse_exit("gate:0"), (ExitConfig{ExitKind::Gate, 0}));
  EXPECT_EQ(parse_exit("depth:2"), (ExitConfig{ExitKind::Depth, 2}));
  EXPECT_EQ(parse_exit("step:0"), (ExitConfig{ExitKind::Step, 0}));
  EXPECT_EQ(parse_exit("cdf:1.5"), (ExitConfig{ExitKind::Cdf, 1.5}));
  EXPECT_EQ(parse_exit("weighted"),
            (ExitConfig{.kind = ExitKind::Weighted, .mode = ExitMode::Select}));
  for (const char* text : {"none", "confidence:0.9", "entropy:2.5", "depth:2", "step:3", "cdf:0.35",
                           "weighted", "kl:0.001", "minp-kl:0.5", "entropy-diff:2",
                           "argmax-stability:5", "latent-diff:0.03", "cosine:0.25"})
    EXPECT_EQ(exit_text(parse_exit(text)), text);
  for (const char* text :
       {"", "confidence", "conf:0.9", "0.9", "none:1", ":1", "Depth:1", "weighted:1"})
    EXPECT_THAT(
        error_of([&] { parse_exit(text); }),
        AllOf(
            HasSubstr(
                "confidence:T, entropy:T, similarity:T, gate:T, depth:N, step:N, "
                "cdf:T, weighted, kl:T, minp-kl:T, entropy-diff:T, argmax-stability:N, latent-diff:T, cosine:T or none"),
            HasSubstr(fmt::format("found '{}'", text))));
  const std::pair<const char*, const char*> wrong[] = {
      {"confidence:0", "confidence: expected a probability above 0, up to 1, found '0'"},
      {"confidence:1.01", "up to 1"},
      {"confidence:", "found ''"},
      {"confidence:nan", "nan"},
      {"confidence:0,9", "0,9"},
      {"entropy:-1", "entropy: expected a number of nats from 0"},
      {"entropy:inf", "inf"},
      {"similarity:1.5", "a cosine from -1 to 1"},
      {"gate:2", "gate: expected a probability from 0 to 1"},
      {"depth:0", "depth: expected a whole number of loops from 1, found '0'"},
      {"depth:1.5", "whole number"},
      {"depth:-1", "whole number"},
      {"depth:2x", "2x"},
      {"step:-1", "step: expected a loop's number from 0, found '-1'"},
      {"step:0.5", "a loop's number"},
      {"cdf:-0.1", "cdf: expected a probability from 0"},
      {"cdf:inf", "inf"}};
  for (const auto& [text, message] : wrong)
    EXPECT_THAT(error_of([&] { parse_exit(text); }), HasSubstr(message)) << text;
  for (const ExitKv kv : kPolicies) EXPECT_EQ(parse_exit_kv(exit_kv_name(kv)), kv);
  EXPECT_EQ(error_of([] { parse_exit_kv("full"); }),
            "expected propagate, exact, share or missing, found 'full'");
  for (const ExitMode mode : {ExitMode::Skip, ExitMode::Select})
    EXPECT_EQ(parse_exit_mode(exit_mode_name(mode)), mode);
  EXPECT_EQ(error_of([] { parse_exit_mode("all"); }), "expected select or skip, found 'all'");
}

// What is wrong with it is no problem of the model's: another rule may be asked for or stored.
TEST_F(EarlyExitsTest, AStoredRuleIsCheckedWhereItIsUsed) {
  const auto config_with = [](const Json& exit, bool gate = true) {
    Json config = looped_config({.gate = gate});
    config["reprise"]["exit"] = exit;
    return config;
  };
  const auto refusal = [&](const Json& exit) {
    const auto model = tiny_model(config_with(exit), *backend_);
    return error_of([&] { model->stored_exit(model->decode_plan()); });
  };
  for (const ExitConfig& rule :
       {ExitConfig{ExitKind::Cdf, 0.7}, ExitConfig{ExitKind::Step, 1, ExitKv::Propagate}})
    EXPECT_EQ(tiny_model(config_with(exit_config_to_json(rule)), *backend_)->config().exit, rule);
  const ExitConfig rule = {ExitKind::Entropy, 1.25, ExitKv::Share};
  EXPECT_EQ(tiny_model(config_with(exit_config_to_json(rule)), *backend_)->config().exit, rule);
  EXPECT_FALSE(make({})->config().exit.has_value());
  EXPECT_THAT(refusal({{"kind", "gate"}, {"threshold", 0.5}, {"kv", "exact"}, {"agreement", 1}}),
              HasSubstr("key 'reprise.exit.agreement': is unknown here, expected one of kind"));
  EXPECT_THAT(refusal({{"threshold", 0.5}, {"kv", "exact"}}),
              AllOf(HasSubstr("tiny model: key 'reprise.exit.kind'"), HasSubstr("missing")));
  EXPECT_THAT(refusal({{"kind", "surprise"}, {"threshold", 0.5}, {"kv", "exact"}}),
              HasSubstr("key 'reprise.exit.kind': expected confidence, entropy, similarity, gate, "
                        "depth, step, cdf, weighted, kl, minp-kl, entropy-diff, argmax-stability, "
                        "latent-diff or cosine, found 'surprise'"));
  EXPECT_THAT(
      refusal({{"kind", "gate"}, {"threshold", 3}, {"kv", "exact"}}),
      HasSubstr("key 'reprise.exit.threshold': expected a probability from 0 to 1, found 3"));
  EXPECT_THAT(refusal({{"kind", "gate"}, {"threshold", "0.5"}, {"kv", "exact"}}),
              HasSubstr("reprise.exit.threshold"));
  EXPECT_THAT(
      refusal({{"kind", "gate"}, {"threshold", 0.5}, {"kv", "full"}}),
      HasSubstr(
          "key 'reprise.exit.kv': expected propagate, exact, share or missing, found 'full'"));
  EXPECT_THAT(refusal("gate:0.5"), HasSubstr("reprise.exit"));
  // What doesn't fit the model.
  EXPECT_THAT(refusal({{"kind", "depth"}, {"threshold", 4}, {"kv", "exact"}}),
              HasSubstr("key 'reprise.exit': depth:4: expected 1 to 3 loops"));
  EXPECT_THAT(error_of([&] {
                const auto model = tiny_model(
                    config_with({{"kind", "gate"}, {"threshold", 0.5}, {"kv", "exact"}}, false),
                    *backend_);
                model->stored_exit(model->decode_plan());
              }),
              HasSubstr("key 'reprise.exit': gate:0.5: the model has no exit gate"));
  Json dense = tiny_text_config("LlamaForCausalLM");
  dense["reprise"]["exit"] = {{"kind", "entropy"}, {"threshold", 1}, {"kv", "exact"}};
  const auto model = tiny_model(dense, *backend_);
  EXPECT_THAT(error_of([&] { model->stored_exit(model->decode_plan()); }),
              AllOf(HasSubstr("tiny model"), HasSubstr("no loop end")));
  const auto looped = tiny_model(config_with("gate:0.5"), *backend_);
  EXPECT_EQ(looped->stored_exit(dense_plan(looped->config().text.layers)), ExitConfig())
      << "a plan without loops has no use for it";
}

TEST_F(EarlyExitsTest, RulesThatDoNotFitThePlan) {
  const auto looped = make({.gate = false});
  const auto dense = tiny_model(tiny_text_config("LlamaForCausalLM"), *backend_);
  const auto refusal = [](Model& model, const ExitConfig& exit, const PlanOptions& options = {}) {
    return error_of([&] { Session(model, make_plans(model, options), 512, exit); });
  };
  for (const ExitKind kind : kKinds)
    EXPECT_THAT(refusal(*dense, {kind, 1}), HasSubstr("no loop end where a token could leave"));
  EXPECT_THAT(
      refusal(*looped, {ExitKind::Depth, 4}),
      HasSubstr("depth:4: expected 1 to 3 loops, which is what the plan of tiny model has"));
  EXPECT_THAT(
      refusal(*looped, {ExitKind::Step, 3}),
      HasSubstr("step:3: expected a loop's number from 0 to 2, the plan of tiny model has 3"));
  for (const ExitKind kind : {ExitKind::Gate, ExitKind::Cdf})
    EXPECT_THAT(refusal(*looped, {kind, 0.5}), HasSubstr("no exit gate"));
  EXPECT_THAT(refusal(*looped, {ExitKind::Weighted}), HasSubstr("none can be left out"));
  EXPECT_THAT(refusal(*make({.last = 1}),
                      {.kind = ExitKind::Depth, .threshold = 1, .mode = ExitMode::Select}),
              HasSubstr("layers behind its loops"));
  EXPECT_EQ(refusal(*looped, {ExitKind::Depth, 3}), "");
  EXPECT_EQ(refusal(*dense, {}), "");
  // Another plan of the same model.
  EXPECT_THAT(refusal(*looped, {ExitKind::Depth, 1}, {{"plan", "0-1"}}), HasSubstr("no loop end"));
}

// Tokens leave at the first loop end that says so, with the logits of that loop.
TEST_F(EarlyExitsTest, TokensLeaveAtTheFirstLoopEndThatSaysSo) {
  for (const int rank : {0, 2}) {
    const auto model = make({.loops = 3, .rank = rank});
    const auto plans = make_plans(*model);
    for (const ExitKind kind : kKinds) {
      SCOPED_TRACE(fmt::format("{}, rank {}", exit_kind_name(kind), rank));
      const ExitConfig config = rule_of(*model, kind, ExitKv::Exact);
      const ExitRule rule(*model, plans->decode, config);
      Session session(*model, plans, 512, config);
      std::vector<int32_t> ids = {3, 1, 4, 1, 5};
      session.prefill(prompt_of(ids));
      std::set<int> loops;
      for (int32_t token = 0; token < 12; ++token) {
        const LoopExit found = session.decode_exit(3 * token);
        loops.insert(found.loop);
        ids.push_back(3 * token);
        // The whole text at full depth: with exact keys and values, a token's states up to its exit
        // are those.
        Sequence full;
        Rows rows;
        rows.append(full, std::ssize(ids), std::ssize(ids));
        const Model::Results results =
            model->run(plans->decode, rows, model->embed(ids), nullptr, /*exits=*/true);
        ExitMemory memory;
        ExitMemory* const of_row[] = {&memory};
        int expected = 2;
        for (int loop = 0; loop < 2; ++loop) {
          const Tensor all = results.exits[static_cast<size_t>(loop)];
          const Tensor state = backend_->slice(all, 0, all.dim(0) - 1, all.dim(0));
          const auto logits = backend_->to_host(model->logits(model->final_norm(state)));
          const double score = rule.scores(loop, state, logits, of_row)[0];
          if (loop <= found.loop) {
            const double given = found.scores[static_cast<size_t>(loop)];
            EXPECT_TRUE(given == score || (std::isnan(given) && std::isnan(score)));
          } else {
            EXPECT_TRUE(std::isnan(found.scores[static_cast<size_t>(loop)])) << "was not asked";
          }
          if (expected == 2 && rule.leaves(score)) expected = loop;
        }
        EXPECT_TRUE(std::isnan(found.scores[2])) << "the last one isn't asked";
        ASSERT_EQ(found.loop, expected);
        const Tensor all = results.exits[static_cast<size_t>(expected)];
        const Tensor state = backend_->slice(all, 0, all.dim(0) - 1, all.dim(0));
        EXPECT_EQ(backend_->to_host(found.state), backend_->to_host(state));
        EXPECT_EQ(found.logits, backend_->to_host(model->logits(model->final_norm(state))));
      }
      if (kind == ExitKind::Depth)
        EXPECT_EQ(loops, std::set<int>{1});
      else
        EXPECT_GT(loops.size(), 1u) << "the rule tells tokens apart";
    }
  }
}

// All loops run and the rule chooses: of a prompt's positions and of generated tokens the logits that
// leaving gives, with the cache of the full depth.
TEST_F(EarlyExitsTest, SelectingRunsAllLoops) {
  const auto model = make({.loops = 3, .rank = 2});
  const auto plans = make_plans(*model);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
  for (const ExitKind kind : kKinds) {
    SCOPED_TRACE(exit_kind_name(kind));
    ExitConfig config = rule_of(*model, kind, ExitKv::Exact);
    config.mode = ExitMode::Select;
    // By single tokens, and in chunks as one prompt.
    Session one_by_one(*model, plans, 512, config), prompt(*model, plans, 3, config);
    one_by_one.prefill(prompt_of({ids[0]}));
    std::vector<int> loops = one_by_one.prompt_loops();
    std::vector<float> logits;
    for (size_t i = 1; i < ids.size(); ++i) {
      const LoopExit left = one_by_one.decode_exit(ids[i]);
      loops.push_back(left.loop);
      logits = left.logits;
    }
    Tensor last;
    prompt.prefill(prompt_of(ids), [&](int64_t, const Tensor& normed) {
      last = backend_->slice(normed, 0, normed.dim(0) - 1, normed.dim(0));
    });
    EXPECT_EQ(prompt.prompt_loops(), loops);
    EXPECT_EQ(prompt.logits(last), logits);
    Session alone(*model, plans, 3, config);
    EXPECT_EQ(alone.prefill(prompt_of(ids)), logits);
    EXPECT_EQ(alone.prompt_loops(), std::vector<int>{loops.back()});
    EXPECT_GT(std::set<int>(loops.begin(), loops.end()).size(), kind == ExitKind::Depth ? 0u : 1u);
    // The same tokens without a rule.
    Session full(*model, plans);
    full.prefill(prompt_of(ids));
    EXPECT_EQ(full.decode(7).size(), one_by_one.decode_exit(7).logits.size());
    EXPECT_EQ(full.kv_bytes(), one_by_one.kv_bytes());
  }
  ExitConfig mean = {.kind = ExitKind::Weighted, .mode = ExitMode::Select};
  Session weighted(*model, plans, 512, mean);
  const std::vector<float> found = weighted.prefill(prompt_of(ids));
  // The mean of each loop's logits by the gates' probabilities.
  Sequence sequence;
  Rows rows;
  rows.append(sequence, std::ssize(ids), std::ssize(ids));
  const auto ends = model->run(plans->decode, rows, model->embed(ids), nullptr, true).exits;
  std::vector<double> expected(found.size(), 0);
  ExitOdds odds;
  for (size_t loop = 0; loop < ends.size(); ++loop) {
    const Tensor end = backend_->slice(ends[loop], 0, std::ssize(ids) - 1, std::ssize(ids));
    const float lambda = gate_probability(backend_->to_host(model->exit_gate(end))[0]);
    const double p = odds.next(lambda, loop + 1 == ends.size());
    const auto logits = backend_->to_host(model->logits(model->final_norm(end)));
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += p * logits[i];
  }
  EXPECT_NEAR(odds.cdf(), 1, 1e-6);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4);
}

// A gate of 1 leaves for sure, and what remains after it is nothing.
TEST(ExitOdds, InFloat32) {
  ExitOdds odds;
  EXPECT_EQ(odds.next(gate_probability(-1), false), gate_probability(-1));
  EXPECT_EQ(gate_probability(40), 1.0f);
  odds.next(gate_probability(40), false);
  EXPECT_EQ(odds.cdf(), 1.0f);
  EXPECT_EQ(odds.next(0.3f, true), 0.0f);
}

TEST_F(EarlyExitsTest, AtFullDepthAllIsAsWithoutARule) {
  const auto model = make({.loops = 3, .rank = 2, .first = 1, .last = 1});
  const auto plans = make_plans(*model);
  Session plain(*model, plans), ruled(*model, plans, 512, {ExitKind::Depth, 3});
  EXPECT_EQ(plain.prefill(prompt_of({3, 1, 4})), ruled.prefill(prompt_of({3, 1, 4})));
  for (const int32_t token : {7, 30, 22}) EXPECT_EQ(plain.decode(token), ruled.decode(token));
  EXPECT_EQ(plain.kv_bytes(), ruled.kv_bytes());
}

// What a request's tokens gave, and its whole cache.
struct Outcome {
  std::vector<int> loops;
  std::vector<float> logits, kv;
  bool operator==(const Outcome&) const = default;
};

std::vector<float> cache_of(Model& model, const Sequence& sequence) {
  std::vector<float> values;
  for (const auto& [number, row] : sequence.kv) {
    const auto [k, v] = model.backend().read_kv(row, 0, row.filled());
    for (const Tensor& side : {k, v}) {
      const std::vector<float> of_side = model.backend().to_host(side);
      values.insert(values.end(), of_side.begin(), of_side.end());
    }
  }
  return values;
}

void add(const LoopExit& exit, Outcome& outcome) {
  outcome.loops.push_back(exit.loop);
  outcome.logits.insert(outcome.logits.end(), exit.logits.begin(), exit.logits.end());
}

// Requests side by side in one call a step, each leaving where it likes, against each one alone
// with its deeper work done at once.
TEST_F(EarlyExitsTest, TokensLeaveAloneWhateverRunsBeside) {
  const Looped shapes[] = {{.loops = 3},
                           {.loops = 4, .rank = 2},
                           {.loops = 2, .rank = 1, .first = 1},
                           {.loops = 3, .rank = 2, .first = 1, .last = 2}};
  const std::vector<std::vector<int32_t>> prompts = {
      {3, 1, 4, 1, 5}, {9, 2}, {6, 5, 35, 8, 9, 7, 9}};
  for (const Looped& shape : shapes) {
    const auto model = make(shape);
    const auto plans = make_plans(*model);
    for (const ExitKind kind : kKinds) {
      for (const ExitKv kv : kPolicies) {
        SCOPED_TRACE(fmt::format("{} loops, rank {}, {} first, {} last, {}, {}", shape.loops,
                                 shape.rank, shape.first, shape.last, exit_kind_name(kind),
                                 exit_kv_name(kv)));
        const ExitConfig config = rule_of(*model, kind, kv);
        const auto token = [](size_t request, int step) {
          return static_cast<int32_t>((7 * step + 11 * static_cast<int>(request)) % 46);
        };
        std::vector<Outcome> alone(prompts.size()), beside(prompts.size());
        std::vector<Sequence> sequences(prompts.size());
        for (size_t i = 0; i < prompts.size(); ++i) {
          Session session(*model, plans, 512, config);
          session.prefill(prompt_of(prompts[i]));
          sequences[i] = session.sequence().fork(*backend_);
          for (int step = 0; step < 8; ++step) {
            add(session.decode_exit(token(i, step)), alone[i]);
            session.finish_exits();
          }
          alone[i].kv = cache_of(*model, session.sequence());
        }
        {
          EarlyExits exits(*model, plans->decode, config);
          for (int step = 0; step < 8; ++step) {
            Rows rows;
            std::vector<int32_t> ids;
            for (size_t i = 0; i < prompts.size(); ++i) {
              rows.append(sequences[i], 1, sequences[i].length + 1);
              ids.push_back(token(i, step));
            }
            const std::vector<LoopExit> found = exits.run(std::move(rows), model->embed(ids));
            for (size_t i = 0; i < prompts.size(); ++i) add(found[i], beside[i]);
          }
          exits.finish();
        }
        for (size_t i = 0; i < prompts.size(); ++i) {
          beside[i].kv = cache_of(*model, sequences[i]);
          EXPECT_EQ(beside[i].loops, alone[i].loops) << "request " << i;
          EXPECT_TRUE(beside[i] == alone[i]) << "request " << i;
          EXPECT_TRUE(sequences[i].under_way.empty());
        }
      }
    }
  }
}

// Every policy, deferred work and all: `exact` leaves the cache of a pass at full depth.
TEST_F(EarlyExitsTest, ExactIsTheCacheOfTheFullDepth) {
  for (const Looped& shape : {Looped{.loops = 2}, Looped{.loops = 4, .rank = 2, .first = 1}}) {
    const auto model = make(shape);
    const auto plans = make_plans(*model);
    for (const ExitKind kind : kKinds) {
      std::vector<int32_t> ids = {3, 1, 4, 1, 5};
      Session session(*model, plans, 512, rule_of(*model, kind, ExitKv::Exact));
      session.prefill(prompt_of(ids));
      for (int32_t token = 0; token < 10; ++token) {
        ids.push_back(4 * token);
        session.decode(4 * token);
      }
      session.finish_exits();
      Session full(*model, plans);
      full.prefill(prompt_of(ids));
      EXPECT_TRUE(cache_of(*model, session.sequence()) == cache_of(*model, full.sequence()))
          << exit_kind_name(kind);
    }
  }
}

// A token that leaves goes on through the layers behind the loops.
TEST_F(EarlyExitsTest, LayersBehindTheLoopsRunForEveryToken) {
  const auto model = make({.loops = 2, .last = 1});
  const auto plans = make_plans(*model);
  Session session(*model, plans, 512, {ExitKind::Depth, 1});
  session.prefill(prompt_of({3, 1, 4}));
  const LoopExit first = session.decode_exit(5);
  session.finish_exits();
  EXPECT_EQ(first.loop, 0);
  for (const auto& [number, row] : session.sequence().kv) EXPECT_EQ(row.filled(), 4);
  const auto without = make({.loops = 2, .last = 0});
  EXPECT_EQ(first.logits, backend_->to_host(model->logits(model->final_norm(first.state))));
}

TEST_F(EarlyExitsTest, BranchesLeaveAsTheirTokensWouldAlone) {
  const auto model = make({.loops = 3, .rank = 2});
  const auto plans = make_plans(*model);
  for (const ExitKind kind : kKinds) {
    for (const ExitKv kv : kPolicies) {
      const ExitConfig config = rule_of(*model, kind, kv);
      Session prompt(*model, plans);
      prompt.prefill(prompt_of({3, 1, 4, 1, 5}));
      Branches branches(*model, plans, prompt, config);
      const int first[] = {0, 0}, second[] = {1, 0}, third[] = {0, 0};
      const int32_t tokens[][2] = {{8, 20}, {33, 41}, {2, 17}};
      branches.step(first, tokens[0]);
      branches.step(second, tokens[1]);
      const std::vector<float> found = branches.step(third, tokens[2]);
      std::vector<float> expected;
      int64_t loops = 0;
      for (const int32_t last : {2, 17}) {  // third step: both go on from 20, 33
        Session alone(*model, plans, 512, config);
        alone.prefill(prompt_of({3, 1, 4, 1, 5}));
        alone.decode(20);
        alone.decode(33);
        const LoopExit exit = alone.decode_exit(last);
        expected.insert(expected.end(), exit.logits.begin(), exit.logits.end());
        loops += exit.loop + 1;
      }
      EXPECT_EQ(found, expected) << exit_kind_name(kind) << " " << exit_kv_name(kv);
      EXPECT_EQ(branches.tokens_run(), 6);
      EXPECT_GE(branches.loops_run(), loops + 4);
    }
  }
}

// An error in the middle forgets whole tokens: the request can go on from what it then has.
TEST_F(EarlyExitsTest, AnErrorLeavesWholeTokens) {
  const auto model = make({.loops = 3});
  const auto plans = make_plans(*model);
  Session session(*model, plans, 512, {ExitKind::Depth, 1, ExitKv::Exact});
  session.prefill(prompt_of({3, 1, 4}));
  session.decode(5);
  struct Failing : Observer {
    void on_step(const StepSeen& seen) override {
      if (seen.index == 1) fail("stop");
    }
  } failing;
  EXPECT_EQ(error_of([&] { session.decode(6, &failing); }), "stop");
  EXPECT_EQ(session.length(), 3) << "token 5 still had its deeper loops to run";
  EXPECT_TRUE(session.sequence().under_way.empty());
  for (const auto& [number, row] : session.sequence().kv) EXPECT_EQ(row.filled(), 3);
  Session fresh(*model, plans, 512, {ExitKind::Depth, 1, ExitKv::Exact});
  fresh.prefill(prompt_of({3, 1, 4}));
  for (const int32_t token : {5, 6}) EXPECT_EQ(session.decode(token), fresh.decode(token));
}

}  // namespace
}  // namespace reprise::test
