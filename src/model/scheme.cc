#include "model/scheme.h"

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

Tensor plain_attention(Backend& be, const TextConfig& config, const VisitRows& rows,
                       const Qkv& qkv) {
  AttentionSpec spec;
  spec.heads = config.heads;
  spec.kv_heads = config.kv_heads;
  spec.k_dim = spec.v_dim = config.head_dim;
  const BlockConfig& block = config.blocks[static_cast<size_t>(rows.visit.block)];
  spec.scale = block.scale;
  spec.window = block.window;
  return be.attention(spec, qkv.q, qkv.k, qkv.v, rows.attention);
}

Tensor Scheme::attend(Backend& be, int /*block*/, const VisitRows& rows, const Qkv& qkv) {
  return plain_attention(be, config_.text, rows, qkv);
}

Tensor Scheme::mix_weight(Backend&, const Mix& mix, const Tensor&) {
  REPRISE_CHECK(false, "scheme '{}' has no gate {}", name(), mix.gate);
}

}  // namespace reprise
