#include "support/schedules.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include "support/looped_scheme.h"

namespace reprise::test {
namespace {

PlanOptions with_plan(const std::string& plan) { return {{"plan", plan}}; }

// 2 layers in front, `core` looped ones, 1 behind.
Json raven_config(int core, bool huginn) {
  Json config = {{"architectures", {"RavenForCausalLM"}},
                 {"n_embd", 40},
                 {"n_heads", 4},
                 {"num_key_value_heads", huginn ? 4 : 2},
                 {"intermediate_size", 44},
                 {"vocab_size", 46},
                 {"n_layers_in_prelude", 2},
                 {"n_layers_in_recurrent_block", core},
                 {"n_layers_in_coda", 1},
                 {"mean_recurrence", 4},
                 {"block_size", 256},
                 {"norm_eps", 1e-6},
                 {"rope_base", 500.0},
                 {"qk_bias", huginn},
                 {"tie_embeddings", huginn}};
  if (!huginn)
    config.update({{"rope_theta", 500.0}, {"init_values", {{"std", 0.1}, {"embed_scale", 1.0}}}});
  return config;
}

Json dory_config(const char* kv) {
  Json config = tiny_text_config("DoryForCausalLM");
  config.update({{"num_hidden_layers", 8},
                 {"n_input_layers", 2},
                 {"n_recurrent_layers", 4},
                 {"n_output_layers", 2},
                 {"n_recurrent_loops", 3},
                 {"layer_types",
                  {"full_attention", "mlp", "sliding_attention", "mlp", "full_attention", "mlp",
                   "sliding_attention", "mlp"}},
                 {"sliding_window", 6},
                 {"initializer_range", 0.5},
                 {"ngpt_alpha_init", 0.2},
                 {"recurrent_kv_cache_mode", kv}});
  return config;
}

}  // namespace

std::unique_ptr<Model> make_model(const Kind& kind, Backend& backend) {
  if (!kind.looped) return tiny_model(kind.config, backend);
  const ModelConfig config = config_from_json(kind.config, "tiny model");
  return Model::create(config, backend, tiny_values, std::make_unique<LoopedScheme>(config));
}

std::vector<Kind> kinds() {
  const auto text = [](const char* family) {
    return tiny_text_config(std::string(family) + "ForCausalLM");
  };
  const auto own = [](Json config, const char* scheme, const Json& keys) {
    config["reprise"] = {{"scheme", scheme}, {scheme, keys}};
    return config;
  };
  std::vector<Kind> list;
  list.push_back({"dense_and_replay",
                  text("Llama"),
                  {{},
                   with_plan("0-1,0,1-0"),
                   with_plan("0,0-1*3,1"),
                   with_plan("1,1,0"),
                   with_plan("0-1,0-1*2@0.3,1@0.6")}});
  Json window = text("Qwen2");
  window["use_sliding_window"] = true;
  window["sliding_window"] = 6;
  window["max_window_layers"] = 0;
  list.push_back({"window", window, {{}, with_plan("0-1,1")}});
  Json dynamic = text("Llama");
  dynamic["max_position_embeddings"] = 24;
  dynamic["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  list.push_back({"dynamic_rope", dynamic});
  list.push_back(
      {"recursive",
       own(text("Llama"), "recursive", {{"loops", 3}, {"lora_rank", 5}, {"exit_gate", true}}),
       {{}},
       3});
  list.push_back({"recursive_plain",
                  own(text("Phi3"), "recursive", {{"loops", 4}, {"lora_rank", 0}}),
                  {{}},
                  4});
  TinyShape three_layers;
  three_layers.layers = 3;
  list.push_back({"looped_with_coda",
                  tiny_text_config("LlamaForCausalLM", three_layers),
                  {{}},
                  LoopedScheme::kLoops,
                  true});
  Json ouro = text("Ouro");
  ouro["total_ut_steps"] = 3;
  list.push_back({"ouro", ouro, {{}, {{"loops", int64_t{2}}}}, 3});
  TinyShape four_layers;
  four_layers.layers = 4;
  Json split = tiny_text_config("NanbeigeForCausalLM", four_layers);
  split.update({{"enable_double_loop_split", true}, {"loop_middle_layers", 2}});
  list.push_back({"loop_split", split, {{}}, 3});
  split["loop_share_kv"] = true;
  list.push_back({"loop_split_shared", split, {{}}, 3});
  const PlanOptions shorter = {{"num_steps", int64_t{2}}},
                    continuous = {{"continuous_compute", true}};
  const auto lookup = [](const char* strategy) {
    return PlanOptions{{"cache_lookup_strategy", std::string(strategy)}};
  };
  list.push_back({"huginn",
                  raven_config(4, /*huginn=*/true),
                  {{}, lookup("latest-m4"), lookup("always-last-m4"), continuous, shorter},
                  4});
  list.push_back(
      {"raven_llama", raven_config(3, /*huginn=*/false), {{}, continuous, lookup("skip")}, 4});
  list.push_back({"dory", dory_config("per_loop"), {{}, {{"loops", int64_t{2}}}}, 3});
  list.push_back({"dory_last_loop", dory_config("last_loop"), {{}}, 3, false, /*shares=*/false});
  Json phantom = tiny_vision_language_config("phantom", text("Qwen2"));
  phantom["reprise"] = {{"phantom", {{"eta", 0.5}}}};
  list.push_back({"phantom", phantom});
  const Json trol = tiny_vision_language_config("trol", text("Phi3"));
  const PlanOptions three = {{"passes", int64_t{3}}}, adaptive = {{"adaptive", 0.5}},
                    one = {{"passes", int64_t{1}}};
  list.push_back({"trol", trol, {{}, three, adaptive, one}});
  return list;
}

ExitKv random_policy(const Kind& kind, Random& random) {
  constexpr std::array kAll = {ExitKv::Propagate, ExitKv::Exact, ExitKv::Missing, ExitKv::Share};
  return kAll[random.below(kind.shares ? 4 : 3)];
}

uint64_t schedules() {
  const char* text = std::getenv("REPRISE_SCHEDULES");
  return text ? static_cast<uint64_t>(std::atoll(text)) : 12;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace reprise::test
