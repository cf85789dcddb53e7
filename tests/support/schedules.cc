#include "support/schedules.h"

#include <cstdlib>
#include <cstring>

#include "support/looped_scheme.h"

namespace reprise::test {
namespace {

PlanOptions with_plan(const std::string& plan) { return {{"plan", plan}}; }

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
                  {{}, with_plan("0-1,0,1-0"), with_plan("0,0-1*3,1"), with_plan("1,1,0")}});
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
      {"recursive", own(text("Llama"), "recursive", {{"loops", 3}, {"lora_rank", 5}}), {{}}, 3});
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
  Json phantom = tiny_vision_language_config("phantom", text("Qwen2"));
  phantom["reprise"] = {{"phantom", {{"eta", 0.5}}}};
  list.push_back({"phantom", phantom});
  const Json trol = tiny_vision_language_config("trol", text("Phi3"));
  const PlanOptions three = {{"passes", int64_t{3}}}, adaptive = {{"adaptive", 0.5}},
                    one = {{"passes", int64_t{1}}};
  list.push_back({"trol", trol, {{}, three, adaptive, one}});
  return list;
}

uint64_t schedules() {
  const char* text = std::getenv("REPRISE_SCHEDULES");
  return text ? static_cast<uint64_t>(std::atoll(text)) : 12;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace reprise::test
