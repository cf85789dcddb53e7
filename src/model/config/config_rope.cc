// Rope's keys of a decoder's config.json, in the styles of transformers 4 (rope_theta,
// rope_scaling) and 5 (rope_parameters; one object a kind of layer where windowed layers have a
// rope of their own).
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"

namespace reprise {
namespace {

// Beyond any model, and far from where float32 ends.
constexpr double kMostTheta = 1e15;
constexpr double kMostFactor = 1e6;
constexpr double kMostRotations = 1e6;

// Both the decoder's keys and the object that says how rope is scaled, which may repeat them.
struct RopeKeys {
  const JsonObject& top;
  const JsonObject* scaling;  // rope_parameters or rope_scaling; null: none
  bool windowed = false;      // of windowed layers alone: usual names in `top` are the others'

  // A key and the object that has it; `top` where neither has.
  struct Place {
    const JsonObject& object;
    const char* key;
    void problem(const std::string& text) const { object.problem_at(key, text); }
  };

  // `outside`: what it is called in `top`. A problem where the two disagree.
  Place find(const char* key, const char* outside) const {
    if (!scaling || !scaling->has(key)) return {top, outside};
    if (top.has(outside) && top.json()[outside] != scaling->json()[key])
      top.problem_at(outside, "contradicts rope_parameters or rope_scaling, which have it too");
    return {*scaling, key};
  }
  const JsonObject& holder(const char* key) const { return find(key, key).object; }
  double number(const char* key, const char* outside, double absent, double low,
                double high) const {
    const Place place = find(key, outside);
    const double value =
        place.object.has(place.key) ? number_in(place.object, place.key, low, high) : absent;
    // Its usual name isn't read where it has another one.
    if (!windowed && std::string_view(key) != outside && top.has(key) && top.json()[key] != value)
      top.problem_at(
          key, fmt::format("expected none, or {} as '{}' has it or means by being absent", value,
                           outside));
    return value;
  }
};

// Keys that this program knows for one kind of scaling or another. Those of another kind than the
// object's own change nothing, as in transformers; any other might.
void check_known(const JsonObject& scaling) {
  static const std::set<std::string> known = {"rope_type",
                                              "type",
                                              "rope_theta",
                                              "partial_rotary_factor",
                                              "factor",
                                              "original_max_position_embeddings",
                                              "max_position_embeddings",
                                              "attention_factor",
                                              "beta_fast",
                                              "beta_slow",
                                              "mscale",
                                              "mscale_all_dim",
                                              "truncate",
                                              "short_factor",
                                              "long_factor",
                                              "low_freq_factor",
                                              "high_freq_factor"};
  for (const auto& [key, value] : scaling.json().items())
    if (!known.contains(key) && !value.is_null())
      scaling.problem_at(key, "is unknown to this program and may change what rope computes");
}

int64_t original_max_position(const RopeKeys& keys, const TextConfig& text) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const JsonObject& from = keys.holder(kKey);
  const int64_t fallback = text.kind->rope.original_max_position;
  if (!from.has(kKey)) return fallback > 0 ? fallback : text.max_position;
  const int64_t value = from.get_int(kKey, 2, kMostTokens);
  // Phi3Config always has the key outside, and that one counts.
  if (fallback > 0 && !keys.top.has(kKey) && value != fallback)
    keys.top.problem_at(kKey, fmt::format("is absent and means {}, which contradicts the one in "
                                          "rope_parameters or rope_scaling",
                                          fallback));
  return value;
}

// LongRoPE's factor on cos and sin: sqrt(1 + ln(f) / ln(O)), f the ratio of the two contexts.
// Phi-3's released code has 0.1 ln(f) + 1 for what it calls "yarn".
double long_rope_factor(double factor, int64_t original, bool released_yarn) {
  if (factor <= 1) return 1;
  return released_yarn ? 0.1 * std::log(factor) + 1
                       : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
}

void read_long_rope(const RopeKeys& keys, const TextConfig& text, bool released_yarn,
                    RopeConfig& rope) {
  const JsonObject& scaling = *keys.scaling;
  rope.kind = RopeConfig::Kind::LongRope;
  rope.short_factor = scaling.get_numbers("short_factor");
  rope.long_factor = scaling.get_numbers("long_factor");
  const size_t expected = static_cast<size_t>(rope.dim / 2);
  for (const auto& [key, factors] : {std::pair{"short_factor", &rope.short_factor},
                                     std::pair{"long_factor", &rope.long_factor}}) {
    if (factors->size() != expected)
      scaling.problem_at(key,
                         fmt::format("expected {} numbers, found {}", expected, factors->size()));
    for (double factor : *factors)
      if (!(factor >= 1 / kMostFactor && factor <= kMostFactor))
        scaling.problem_at(
            key, fmt::format("expected {} to {}, found {}", 1 / kMostFactor, kMostFactor, factor));
  }
  rope.original_max_position = original_max_position(keys, text);
  const double ratio =
      static_cast<double>(text.max_position) / static_cast<double>(rope.original_max_position);
  const double factor =
      scaling.has("factor") ? number_in(scaling, "factor", 1 / kMostFactor, kMostFactor) : ratio;
  rope.attention_factor = scaling.has("attention_factor")
                              ? number_in(scaling, "attention_factor", 1 / kMostFactor, kMostFactor)
                              : long_rope_factor(factor, rope.original_max_position, released_yarn);
}

// YaRN (arXiv 2309.00071): see inverse_frequencies in rope.cc. The factor on cos and sin is
// 0.1 ln(factor) + 1, or the ratio of two such where DeepSeek's mscale and mscale_all_dim are
// there.
void read_yarn(const RopeKeys& keys, const TextConfig& text, RopeConfig& rope) {
  const JsonObject& scaling = *keys.scaling;
  rope.kind = RopeConfig::Kind::Yarn;
  rope.original_max_position = original_max_position(keys, text);
  if (scaling.json().contains("factor") && !scaling.has("factor"))  // null
    rope.factor =
        static_cast<double>(text.max_position) / static_cast<double>(rope.original_max_position);
  else
    rope.factor = number_in(scaling, "factor", 1, kMostFactor);
  if (!(rope.theta > 1))
    keys.find("rope_theta", text.kind->rope.theta_key).problem("yarn needs one above 1");
  // 0 means the default in transformers.
  const auto number = [&](const char* key, double fallback) {
    const double value = scaling.has(key) ? number_in(scaling, key, 0, kMostRotations) : 0;
    return value > 0 ? value : fallback;
  };
  rope.beta_fast = number("beta_fast", 32);
  rope.beta_slow = number("beta_slow", 1);
  rope.truncate = scaling.find_bool("truncate").value_or(true);
  const auto magnitude = [&](double scale) {
    return rope.factor <= 1 ? 1.0 : 0.1 * scale * std::log(rope.factor) + 1;
  };
  const double mscale = number("mscale", 0), all_dims = number("mscale_all_dim", 0);
  if (scaling.has("attention_factor"))
    rope.attention_factor = number_in(scaling, "attention_factor", 1 / kMostFactor, kMostFactor);
  else if (mscale > 0 && all_dims > 0)
    rope.attention_factor = magnitude(mscale) / magnitude(all_dims);
  else
    rope.attention_factor = magnitude(1);
}

void read_llama3(const RopeKeys& keys, const TextConfig& text, const std::string& key,
                 RopeConfig& rope) {
  const JsonObject& scaling = *keys.scaling;
  rope.kind = RopeConfig::Kind::Llama3;
  rope.factor = scaling.get_number("factor");
  rope.low_freq_factor = scaling.get_number("low_freq_factor");
  rope.high_freq_factor = scaling.get_number("high_freq_factor");
  rope.original_max_position = original_max_position(keys, text);
  if (!(rope.factor >= 1 && rope.low_freq_factor > 0 &&
        rope.high_freq_factor > rope.low_freq_factor))
    scaling.fail_at(key, "factor, low_freq_factor and high_freq_factor contradict each other");
}

// theta_key: what the base is called outside of the keys; absent_theta: what its absence means.
RopeConfig read_rope(const RopeKeys& keys, Dialect dialect, const TextConfig& text,
                     const char* theta_key, double absent_theta) {
  const RopeRules& rules = text.kind->rope;
  RopeConfig rope;
  rope.max_position = text.max_position;
  rope.theta = keys.number("rope_theta", theta_key, absent_theta, 1, kMostTheta);
  constexpr const char* kPartial = "partial_rotary_factor";
  const char* partial_key = rules.partial_key ? rules.partial_key : kPartial;
  const double partial = keys.number(kPartial, partial_key, rules.partial, 0, 1);
  rope.dim = static_cast<int>(text.head_dim * partial);
  if (partial != 1 && !rules.partial_key)
    keys.find(kPartial, partial_key)
        .problem("expected 1: the code of " + text.architecture + " rotates whole heads");
  else if (rope.dim < 2 || rope.dim % 2 != 0)
    keys.find(kPartial, partial_key)
        .problem(fmt::format("gives {} rotated components, expected an even number", rope.dim));
  if (!keys.scaling) return rope;
  const JsonObject& scaling = *keys.scaling;
  check_known(scaling);
  const std::string key = scaling.has("rope_type") ? "rope_type" : "type";
  // Absent means plain: transformers 5 writes rope_theta alone for it.
  const std::string kind = scaling.has(key) ? scaling.get_string(key) : "default";
  const bool long_rope =
      kind == "su" || kind == "longrope" || (kind == "yarn" && rules.yarn_is_long_rope);
  if (kind == "default") return rope;
  if (kind == "linear" || kind == "dynamic") {
    rope.kind = kind == "linear" ? RopeConfig::Kind::Linear : RopeConfig::Kind::Dynamic;
    rope.factor = number_in(scaling, "factor", 1, kMostFactor);
    if (rope.kind == RopeConfig::Kind::Dynamic && rope.dim < 4)
      scaling.fail_at(
          key, fmt::format("\"dynamic\" needs 4 or more rotated components, found {}", rope.dim));
  } else if (long_rope) {
    read_long_rope(keys, text, kind == "yarn" && dialect == Dialect::Release, rope);
  } else if (kind == "yarn") {
    read_yarn(keys, text, rope);
  } else if (kind == "llama3") {
    read_llama3(keys, text, key, rope);
  } else {
    scaling.fail_at(key, "unknown rope scaling '" + kind +
                             "'; expected default, linear, dynamic, su, longrope, yarn or llama3");
  }
  return rope;
}

// Where both styles are there they must say the same.
void check_agreement(const JsonObject& json, const JsonObject& parameters) {
  const auto old = json.find_object("rope_scaling");
  if (!old) return;
  for (const auto& [key, value] : old->json().items()) {
    const std::string same = key == "type" ? "rope_type" : key;
    const Json& other = parameters.json();
    if (!value.is_null() && (!other.contains(same) || other[same] != value))
      json.problem_at("rope_scaling", "contradicts rope_parameters, which is there too");
  }
}

}  // namespace

void read_ropes(const JsonObject& json, Dialect dialect, TextConfig& text) {
  const auto parameters = json.find_object("rope_parameters");  // transformers 5
  const auto scaling = parameters ? parameters : json.find_object("rope_scaling");
  const RopeRules& rules = text.kind->rope;
  const char* windowed_key = rules.windowed_theta_key;
  const auto read = [&](const JsonObject* from, bool windowed) {
    const bool own = windowed && windowed_key;
    text.ropes.push_back(read_rope({json, from, own}, dialect, text,
                                   own ? windowed_key : rules.theta_key,
                                   own ? rules.windowed_theta : text.kind->defaults.rope_theta));
  };
  text.ropes.clear();
  if (parameters && (parameters->has("full_attention") || parameters->has("sliding_attention"))) {
    // One object a kind of layer.
    const auto types = read_layer_types(json, static_cast<int>(text.blocks.size()));
    if (!types) json.problem_at("layer_types", "is missing, and rope_parameters are told by it");
    for (const auto& [key, value] : parameters->json().items())
      if (key != "full_attention" && key != "sliding_attention")
        parameters->problem_at(key, "expected full_attention and sliding_attention only");
    for (const bool windowed : {false, true}) {
      const JsonObject own =
          parameters->get_object(windowed ? "sliding_attention" : "full_attention");
      read(&own, windowed);
      for (size_t i = 0; types && i < text.blocks.size(); ++i)
        if ((*types)[i] == windowed && text.blocks[i].rope != kNoRope)
          text.blocks[i].rope = windowed ? 1 : 0;
    }
    return;
  }
  if (parameters) check_agreement(json, *parameters);
  read(scaling ? &*scaling : nullptr, false);
  if (!windowed_key) return;
  read(nullptr, true);  // no scaling
  for (BlockConfig& block : text.blocks) block.rope = block.window > 0 ? 1 : 0;
}

}  // namespace reprise
