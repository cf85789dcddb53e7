// Releases of looped models: what their config.json means, what is refused by name, and their plans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "base/json.h"
#include "model/config/architecture.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class LoopedReleases : public testing::Test {
 protected:
  static Json config(const char* architecture, const Json& more, int layers = 4) {
    TinyShape shape;
    shape.layers = layers;
    Json json = tiny_text_config(architecture, shape);
    json.update(more);
    return json;
  }
  std::unique_ptr<Model> make(const Json& config) { return tiny_model(config, *backend_); }
  std::string refusal(const Json& config) {
    return error_of([&] { make(config); });
  }
  static Json ouro(const Json& more = Json::object()) { return config("OuroForCausalLM", more); }
  static Json nanbeige(const Json& more = Json::object(), int layers = 4) {
    return config("NanbeigeForCausalLM", more, layers);
  }
  std::unique_ptr<Backend> backend_ = make_backend("cpu", {.threads = 1});
};

std::string visits(const Plan& plan) {
  std::string text;
  for (const Step& step : plan.steps) {
    if (const auto* visit = std::get_if<Visit>(&step.op)) {
      text += fmt::format(" {}:{}", visit->block, visit->read);
      if (visit->write != visit->read) text += fmt::format("/{}", visit->write);
    } else if (const auto* end = std::get_if<LoopEnd>(&step.op)) {
      text += end->norm ? " |norm" : " |";
      if (end->coda >= 0) text += fmt::format("->{}", end->coda);
    }
  }
  return text;
}

TEST_F(LoopedReleases, OurosDepthAndRule) {
  const auto plain = make(ouro());
  EXPECT_EQ(plain->decode_plan().loops(), 4) << "where the config doesn't say";
  EXPECT_EQ(plain->scheme().official_exit({}), (ExitConfig{ExitKind::Cdf, 1}));
  EXPECT_EQ(plain->config().text.blocks[3].post_norm, PostNorm::Branch);
  EXPECT_EQ(visits(make(ouro({{"total_ut_steps", 2}}))->decode_plan()),
            " 0:0 1:1 2:2 3:3 |norm 0:4 1:5 2:6 3:7 |");
  EXPECT_EQ(visits(plain->decode_plan({{"loops", int64_t{1}}})), " 0:0 1:1 2:2 3:3 |");

  const auto rule = [&](const Json& more, const PlanOptions& options = {}) {
    return make(ouro(more))->scheme().official_exit(options);
  };
  EXPECT_EQ(rule({{"early_exit_threshold", 0.5}}), (ExitConfig{ExitKind::Cdf, 0.5}));
  EXPECT_EQ(rule({{"early_exit_threshold", nullptr}}), std::nullopt);
  EXPECT_EQ(rule({{"early_exit_threshold", 0.5}, {"early_exit_step", 2}}),
            (ExitConfig{ExitKind::Step, 2}));
  EXPECT_EQ(rule({{"early_exit_step", nullptr}}, {{"exit_threshold", 0.25}}),
            (ExitConfig{ExitKind::Cdf, 0.25}));
  EXPECT_EQ(rule({{"early_exit_step", 2}}, {{"exit_at_step", int64_t{0}}}),
            (ExitConfig{ExitKind::Step, 0}));
  EXPECT_EQ(rule({{"early_exit_threshold", nullptr}}, {{"use_weighted_exit", true}}),
            (ExitConfig{.kind = ExitKind::Weighted, .mode = ExitMode::Select}));
}

TEST_F(LoopedReleases, WhatOuroRefuses) {
  EXPECT_THAT(refusal(ouro({{"total_ut_steps", 0}})), HasSubstr("key 'total_ut_steps'"));
  EXPECT_THAT(refusal(ouro({{"total_ut_steps", nullptr}})), HasSubstr("key 'total_ut_steps'"));
  EXPECT_THAT(refusal(ouro({{"total_ut_steps", 2}, {"early_exit_step", 2}})),
              HasSubstr("key 'early_exit_step'"));
  EXPECT_THAT(refusal(ouro({{"early_exit_threshold", "1"}})),
              HasSubstr("key 'early_exit_threshold'"));
  EXPECT_THAT(refusal(ouro({{"early_exit_threshold", -1}})),
              HasSubstr("key 'early_exit_threshold'"));
  EXPECT_THAT(refusal(ouro({{"attention_bias", true}})), HasSubstr("key 'attention_bias'"));
  const auto model = make(ouro({{"early_exit_step", 3}}));
  EXPECT_THAT(error_of([&] {
                model->scheme().official_exit({{"exit_at_step", int64_t{4}}});
              }),
              HasSubstr("--exit-at-step 4: expected a loop from 0 to 3 of 4"));
  EXPECT_THAT(error_of([&] {
                model->scheme().official_exit({{"loops", int64_t{2}}});
              }),
              HasSubstr("key 'early_exit_step': 3: expected a loop from 0 to 1 of 2"));
  EXPECT_THAT(error_of([&] {
                make(ouro())->scheme().official_exit({{"use_weighted_exit", true}});
              }),
              HasSubstr("--use-weighted-exit: means nothing beside a threshold "
                        "(early_exit_threshold 1)"));
  EXPECT_THAT(error_of([&] {
                model->decode_plan({{"plan", "0-3"}});
              }),
              HasSubstr("--plan: is no option of this model"));
}

TEST_F(LoopedReleases, NanbeigesLoops) {
  EXPECT_EQ(visits(make(nanbeige(Json::object(), 2))->decode_plan()), " 0:0 1:1 |");
  EXPECT_EQ(visits(make(nanbeige({{"num_loops", 2}}, 2))->decode_plan()),
            " 0:0 1:1 |norm 0:2 1:3 |");
  EXPECT_EQ(
      visits(make(nanbeige({{"num_loops", 2}, {"skip_loop_final_norm", true}}, 2))->decode_plan()),
      " 0:0 1:1 | 0:2 1:3 |");
  EXPECT_EQ(make(nanbeige({{"num_loops", 2}, {"loop_loss_weights", {0.2, 0.2, 0.1}}}))
                ->decode_plan()
                .loops(),
            4);
  EXPECT_EQ(make(nanbeige({{"num_loops", 2}, {"loop_loss_weights", Json::array()}}))
                ->decode_plan({{"loops", int64_t{3}}})
                .loops(),
            3);
  const Json split = {{"enable_double_loop_split", true}, {"loop_middle_layers", 2}};
  EXPECT_EQ(visits(make(nanbeige(split))->decode_plan()),
            " 0:0 1:1 2:2 |->10 1:3 2:4 |->10 1:5 2:6 |->10 3:7");
  Json shared = split;
  shared["loop_share_kv"] = true;
  EXPECT_EQ(visits(make(nanbeige(shared))->decode_plan()),
            " 0:0 1:1 2:2 |->10 1:1/-1 2:2/-1 |->10 1:1/-1 2:2/-1 |->10 3:3");
  // Half of the layers where the key is absent; all of them twice leave nothing outside.
  EXPECT_EQ(make(nanbeige({{"enable_double_loop_split", true}}))->decode_plan().loops(), 3);
  EXPECT_EQ(
      visits(make(nanbeige({{"enable_double_loop_split", true}, {"loop_middle_layers", 2}}, 2))
                 ->decode_plan()),
      " 0:0 1:1 | 0:2 1:3 |");
  // What has no cache has no other visit's keys and values.
  const auto model = make(nanbeige(shared));
  Rows rows;
  rows.positions = {0};
  rows.segments = {{nullptr, 0, 1, 1, -1}};
  EXPECT_THAT(error_of([&] {
                model->forward(model->decode_plan(), rows, model->embed(std::vector<int32_t>{1}));
              }),
              HasSubstr("read other visits' keys and values"));
}

TEST_F(LoopedReleases, WhatNanbeigeRefuses) {
  const std::pair<const char*, Json> keys[] = {{"enable_hyper_connection", true},
                                               {"enable_mhc", true},
                                               {"enable_depth_attention", true},
                                               {"emb_neighbor_num", 2},
                                               {"emb_split_num", 2},
                                               {"ngram_vocab_size_ratio", 1.5},
                                               {"insert_ngram_layer_idx", {0}},
                                               {"ngram_insert_all_layers", true},
                                               {"qk_layernorm", true}};
  Json all = Json::object();
  for (const auto& [key, value] : keys) {
    EXPECT_THAT(refusal(nanbeige({{key, value}})),
                AllOf(HasSubstr(fmt::format("key '{}'", key)), HasSubstr("is not supported")));
    all[key] = value;
  }
  for (const auto& [key, value] : keys)
    EXPECT_THAT(refusal(nanbeige(all)), HasSubstr(fmt::format("key '{}'", key))) << "all at once";
  EXPECT_EQ(refusal(nanbeige({{"enable_hyper_connection", false},
                              {"emb_neighbor_num", nullptr},
                              {"insert_ngram_layer_idx", Json::array()},
                              {"qk_layernorm", false}})),
            "");
  EXPECT_THAT(refusal(nanbeige({{"num_loops", 0}})), HasSubstr("key 'num_loops'"));
  EXPECT_THAT(refusal(nanbeige({{"loop_share_kv", true}})),
              HasSubstr("key 'loop_share_kv': needs enable_double_loop_split"));
  EXPECT_THAT(refusal(nanbeige({{"enable_double_loop_split", true}, {"loop_middle_layers", 3}})),
              HasSubstr("key 'loop_middle_layers': expected a factor of num_hidden_layers (4)"));
  EXPECT_THAT(refusal(nanbeige({{"enable_double_loop_split", true}}, 3)),
              HasSubstr("key 'loop_middle_layers': is missing"));
  const auto split = make(nanbeige({{"enable_double_loop_split", true}}));
  EXPECT_THAT(error_of([&] {
                split->decode_plan({{"loops", int64_t{2}}});
              }),
              HasSubstr("--loops: the model's enable_double_loop_split fixes its loops"));
}

Json huginn(const Json& more = Json::object()) {
  Json config = {{"architectures", {"RavenForCausalLM"}},
                 {"n_embd", 48},
                 {"n_heads", 4},
                 {"intermediate_size", 40},
                 {"vocab_size", 46},
                 {"n_layers_in_prelude", 1},
                 {"n_layers_in_recurrent_block", 2},
                 {"n_layers_in_coda", 1},
                 {"mean_recurrence", 2},
                 {"block_size", 64},
                 {"norm_eps", 1e-6},
                 {"rope_base", 50000},
                 {"qk_bias", true},
                 {"tie_embeddings", true}};
  config.update(more);
  return config;
}

TEST_F(LoopedReleases, HuginnsPlanAndForms) {
  const auto model = make(huginn());
  const TextConfig& text = model->config().text;
  EXPECT_EQ(text.layers, 4);
  EXPECT_EQ(text.blocks[0].post_norm, PostNorm::State);
  EXPECT_TRUE(text.ropes[0].interleaved);
  EXPECT_FLOAT_EQ(text.embed_scale, std::sqrt(48.0f));
  const Plan plan = model->decode_plan();
  EXPECT_EQ(visits(plan), " 0:0 1:1 2:2 |->11 1:3 2:4 |->11 3:5");
  EXPECT_EQ(model->scheme().kv_slot(plan, 4), 4);
  EXPECT_EQ(model->scheme().kv_slot(plan, 5), -1);
  EXPECT_EQ(make(huginn({{"mean_recurrence", nullptr}}))->decode_plan().loops(), 32);
  EXPECT_EQ(model->decode_plan({{"num_steps", int64_t{7}}}).loops(), 7);
  EXPECT_EQ(plan_from_json(plan_to_json(plan), "plan"), plan);
  const Plan continued = model->decode_plan({{"continuous_compute", true}, {"init_scale", 0.5}});
  EXPECT_EQ(plan_from_json(plan_to_json(continued), "plan"), continued);
  EXPECT_EQ(*continued.initial(), (Initial{1, 0.5f}));
  EXPECT_EQ(model->prefill_plan({{"continuous_compute", true}}).initial()->index, 0);
  const auto four = make(huginn({{"n_layers_in_prelude", 2}, {"n_layers_in_recurrent_block", 4}}));
  const Plan last = four->decode_plan({{"cache_lookup_strategy", "always-last-m4"}});
  EXPECT_EQ(std::get<Visit>(last.steps[5].op).deepest, 11);
  EXPECT_EQ(plan_from_json(plan_to_json(last), "plan"), last);

  const Json llama = {{"qk_bias", false},
                      {"tie_embeddings", false},
                      {"init_values", {{"std", 0.1}, {"embed_scale", 1.0}}},
                      {"num_key_value_heads", 2},
                      {"rope_theta", 10000.0}};
  const auto other = make(huginn(llama));
  EXPECT_EQ(other->config().text.blocks[0].post_norm, PostNorm::None);
  EXPECT_EQ(other->config().text.ropes[0].theta, 10000);
  EXPECT_FALSE(other->config().text.ropes[0].interleaved);
  EXPECT_EQ(other->config().text.embed_scale, 1);
}

TEST_F(LoopedReleases, HuginnsCriteria) {
  const auto model = make(huginn());
  const auto rule = [&](const PlanOptions& options) {
    return model->scheme().official_exit(options);
  };
  EXPECT_EQ(rule({}), std::nullopt);
  EXPECT_EQ(rule({{"criterion", "none"}}), std::nullopt);
  const ExitConfig kl = {
      .kind = ExitKind::Kl, .threshold = 1e-3, .kv = ExitKv::Missing, .prompts = true};
  EXPECT_EQ(rule({{"criterion", "kl"}}), kl);
  EXPECT_EQ(model->scheme().own_exit(parse_exit("kl:0.001"), {}), kl);
  EXPECT_EQ(model->scheme().own_exit(parse_exit("depth:1"), {}), parse_exit("depth:1"));
  EXPECT_EQ(rule({{"criterion", "argmax-stability"}})->threshold, 5);
  EXPECT_EQ(rule({{"criterion", "latent-diff"}, {"exit_threshold", 0.5}})->threshold, 0.5);
  EXPECT_EQ(rule({{"criterion", "kl"}, {"cache_lookup_strategy", "latest-m4"}})->kv, ExitKv::Share);
  EXPECT_THAT(error_of([&] {
                rule({{"exit_threshold", 0.5}});
              }),
              HasSubstr("--exit-threshold 0.5: means nothing without a criterion"));
  EXPECT_THAT(error_of([&] {
                rule({{"criterion", "argmax-stability"}, {"exit_threshold", 1.5}});
              }),
              HasSubstr("expected a whole number of times from 1, found 1.5"));
  EXPECT_THAT(error_of([&] {
                model->scheme().own_exit(parse_exit("kl:1"), {{"continuous_compute", true}});
              }),
              HasSubstr("expected --criterion kl instead of --exit"));
  for (const char* lookup : {"latest-m4", "always-last-m4"})
    EXPECT_THAT(error_of([&] {
                  model->decode_plan({{"cache_lookup_strategy", lookup}});
                }),
                HasSubstr("holds for 2 layers in front of 4 looped ones, the model has 1 and 2"));
  EXPECT_THAT(error_of([&] {
                model->decode_plan({{"loops", int64_t{2}}, {"num_steps", int64_t{3}}});
              }),
              HasSubstr("--loops 2 and --num-steps 3"));
}

TEST_F(LoopedReleases, WhatHuginnRefuses) {
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"n_embd", 0},
                                                           {"n_layers_in_coda", 0},
                                                           {"mean_recurrence", 0},
                                                           {"norm_eps", -1},
                                                           {"rope_base", "50000"},
                                                           {"tie_embeddings", nullptr},
                                                           {"num_attention_heads", 3},
                                                           {"num_key_value_heads", 2},
                                                           {"injection_type", "add"},
                                                           {"norm_class_name", "LayerNorm"},
                                                           {"test_time_noise", 0.1},
                                                           {"bias", true}})
    EXPECT_THAT(refusal(huginn({{key, value}})), HasSubstr(fmt::format("key '{}'", key)));
}

Json dory(const Json& more = Json::object()) {
  Json config = {{"architectures", {"DoryForCausalLM"}},
                 {"hidden_size", 48},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 16},
                 {"intermediate_size", 40},
                 {"vocab_size", 46},
                 {"num_hidden_layers", 8},
                 {"n_input_layers", 2},
                 {"n_recurrent_layers", 4},
                 {"n_output_layers", 2},
                 {"layer_types",
                  {"full_attention", "mlp", "sliding_attention", "mlp", "full_attention", "mlp",
                   "sliding_attention", "mlp"}},
                 {"sliding_window", 4},
                 {"initializer_range", 0.02},
                 {"ngpt_alpha_init", 0.05},
                 {"max_position_embeddings", 64},
                 {"rope_theta", 10000.0}};
  config.update(more);
  return config;
}

TEST_F(LoopedReleases, DorysPlan) {
  const auto model = make(dory());
  EXPECT_EQ(model->config().text.layers, 4);
  EXPECT_EQ(model->config().text.blocks[1].window, 4);
  EXPECT_EQ(model->config().text.blocks[2].window, 0);
  const Plan plan = model->decode_plan();
  EXPECT_EQ(visits(plan), " 0:0 1:1 2:2 |->13 1:4 2:5 |->13 3:3");
  EXPECT_FALSE(plan.whole_prompts());
  EXPECT_EQ(model->decode_plan({{"n_recurrent_loops", int64_t{3}}}),
            model->decode_plan({{"loops", int64_t{3}}}));
  const auto last = make(dory({{"recurrent_kv_cache_mode", "last_loop"}}));
  EXPECT_EQ(visits(last->decode_plan()), " 0:0 1:1/-1 2:2/-1 |->13 1:1 2:2 |->13 3:3");
  EXPECT_TRUE(last->decode_plan().whole_prompts());
  EXPECT_FALSE(last->decode_plan({{"loops", int64_t{1}}}).whole_prompts());
}

TEST_F(LoopedReleases, WhatDoryRefuses) {
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{
           {"num_hidden_layers", 7},
           {"n_input_layers", 3},
           {"num_hidden_layers", nullptr},
           {"n_recurrent_layers", 0},
           {"n_recurrent_loops", 0},
           {"recurrent_kv_cache_mode", "first_loop"},
           {"initializer_range", 0},
           {"layer_types", {"full_attention", "full_attention"}},
           {"attention_bias", true}})
    EXPECT_THAT(refusal(dory({{key, value}})), HasSubstr(fmt::format("key '{}'", key)));
  EXPECT_THAT(refusal(dory({{"n_output_layers", 4}})),
              HasSubstr("key 'num_hidden_layers': expected the sum"));
  EXPECT_THAT(
      error_of([&] {
        make(dory())->decode_plan({{"loops", int64_t{2}}, {"n_recurrent_loops", int64_t{3}}});
      }),
      HasSubstr("--loops 2 and --n-recurrent-loops 3"));
}

TEST_F(LoopedReleases, OthersAreRefusedByName) {
  for (const char* name : {"HrmTextForCausalLM", "Inkling2ForCausalLM"}) {
    const Json json = config(name, Json::object());
    EXPECT_FALSE(knows_architecture(json));
    EXPECT_THAT(refusal(json),
                AllOf(HasSubstr(fmt::format("unknown architecture '{}'", name)),
                      HasSubstr("OuroForCausalLM, NanbeigeForCausalLM, RavenForCausalLM, "
                                "DoryForCausalLM, and models of type")));
  }
  EXPECT_TRUE(knows_architecture(ouro()));
  EXPECT_TRUE(knows_architecture(nanbeige()));
}

}  // namespace
}  // namespace reprise::test
