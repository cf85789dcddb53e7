#include "model/scheme.h"

#include <cmath>
#include <functional>
#include <map>

#include "base/error.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

using Factory = std::function<std::unique_ptr<Scheme>(const ModelConfig&)>;

// The registry: one line a scheme.
const std::map<std::string, Factory>& registry() {
  static const std::map<std::string, Factory> schemes = {
      {"dense", make_dense_scheme},         {"replay", make_replay_scheme},
      {"trol", make_trol_scheme},           {"phantom", make_phantom_scheme},
      {"recursive", make_recursive_scheme},
  };
  return schemes;
}

}  // namespace

std::unique_ptr<Scheme> make_scheme(const ModelConfig& config) {
  const auto it = registry().find(config.scheme);
  if (it == registry().end()) {
    std::string known;
    for (const std::string& name : scheme_names()) known += (known.empty() ? "" : ", ") + name;
    fail("{}: unknown scheme '{}'; this program knows {}", config.where, config.scheme, known);
  }
  return it->second(config);
}

std::vector<std::string> scheme_names() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : registry()) names.push_back(name);
  return names;
}

Plan Scheme::decode_plan(const PlanOptions& options) const {
  if (options.passes > 1)
    fail("--passes {}: only TroL models traverse layers, this one's scheme is '{}'", options.passes,
         name());
  if (options.traverse != MixTokens::All)
    fail("--traverse {}: only TroL models traverse layers, this one's scheme is '{}'",
         mix_tokens_name(options.traverse), name());
  if (options.skip_below > 0)
    fail("--adaptive {}: only TroL models traverse layers, this one's scheme is '{}'",
         options.skip_below, name());
  if (!options.plan.empty()) return parse_plan(options.plan, config_.text.layers, "--plan");
  return dense_plan(config_.text.layers);
}

KvSpec Scheme::kv_spec() const {
  return {config_.text.kv_heads, config_.text.head_dim, config_.text.head_dim};
}

AttentionSpec Scheme::attention_spec(int /*block*/) const {
  const TextConfig& config = config_.text;
  AttentionSpec spec;
  spec.heads = config.heads;
  spec.kv_heads = config.kv_heads;
  spec.k_dim = spec.v_dim = config.head_dim;
  spec.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  spec.window = config.window;
  return spec;
}

Tensor Scheme::mix_weight(Backend&, const Mix& mix, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no gate {}", name(), mix.gate);
}

Tensor Scheme::inject(Backend&, int index, const Tensor&, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no injection {}", name(), index);
}

Tensor Scheme::step_norm(Backend&, int index, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no norm {}", name(), index);
}

Tensor Scheme::initial_state(Backend&, int index, const Rows&) const {
  REPRISE_CHECK(false, "scheme '{}' has no initial state {}", name(), index);
}

}  // namespace reprise
