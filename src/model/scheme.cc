#include "model/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/vision_language.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

std::string join(const std::vector<std::string>& words, const char* last) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 < words.size() ? ", " : fmt::format(" {} ", last);
    text += words[i];
  }
  return text;
}

}  // namespace

const std::vector<const SchemeType*>& scheme_types() {
#define REPRISE_SCHEME_TYPE(name) &name##_scheme(),
  static const std::vector<const SchemeType*> types = {REPRISE_SCHEMES(REPRISE_SCHEME_TYPE)};
#undef REPRISE_SCHEME_TYPE
  return types;
}

const SchemeType& default_scheme() { return *scheme_types().front(); }

const SchemeType* find_scheme(const std::string& name) {
  for (const SchemeType* type : scheme_types())
    if (type->name == name) return type;
  return nullptr;
}

std::string scheme_list(bool (*holds)(const SchemeType&), const char* last) {
  std::vector<std::string> names;
  for (const SchemeType* type : scheme_types())
    if (holds(*type)) names.push_back(type->name);
  return join(names, last);
}

std::string release_list() {
  return scheme_list(
      [](const SchemeType& type) { return type.release.read && !type.release.decoder; });
}

const Architecture* find_gguf_decoder(const std::string& name) {
  for (const SchemeType* type : scheme_types())
    if (const auto decoder = type->release.decoder;
        decoder && decoder()->gguf.name && name == decoder()->gguf.name)
      return decoder();
  return find_gguf_architecture(name);
}

std::string decoder_names() {
  std::string names = architecture_names();
  for (const SchemeType* type : scheme_types())
    if (type->release.decoder) names += fmt::format(", {}", type->release.decoder()->name);
  return names;
}

std::string gguf_decoder_names() {
  std::string names = gguf_architecture_names();
  for (const SchemeType* type : scheme_types())
    if (const auto decoder = type->release.decoder; decoder && decoder()->gguf.name)
      names += fmt::format(", {}", decoder()->gguf.name);
  return names;
}

const SchemeOption* SchemeType::option(const std::string& wanted, SchemeOption::When when) const {
  for (const SchemeOption& option : options)
    if (option.when == when && option.name == wanted) return &option;
  return nullptr;
}

std::vector<DeclaredOption> declared_options(SchemeOption::When when) {
  std::vector<DeclaredOption> all;
  for (const SchemeType* type : scheme_types()) {
    for (const SchemeOption& option : type->options) {
      if (option.when != when) continue;
      auto it = std::ranges::find_if(
          all, [&](const DeclaredOption& known) { return known.option().name == option.name; });
      if (it == all.end()) it = all.insert(all.end(), DeclaredOption());
      it->schemes.push_back(type);
      it->declared.push_back(&option);
      REPRISE_CHECK(it->option().type == option.type, "option {} has two types", option.name);
    }
  }
  return all;
}

void check_options(const std::string& scheme, SchemeOption::When when,
                   const SchemeOptions& options) {
  const SchemeType* type = find_scheme(scheme);
  if (!type) return;
  for (const auto& [name, value] : options.values()) {
    if (const SchemeOption* option = type->option(name, when)) {
      try {
        check_value(*option, value);
      } catch (const Error& error) {
        fail("{} {}: {}", option_flag(name), value_text(value), error.what());
      }
      continue;
    }
    std::vector<std::string> having;
    for (const SchemeType* other : scheme_types())
      if (other->option(name, when)) having.push_back(other->name);
    fail("{}: is no option of this model, whose scheme is '{}'; {}", option_flag(name), scheme,
         having.empty()       ? "no scheme has it"
         : having.size() == 1 ? "scheme " + having[0] + " has it"
                              : "schemes " + join(having, "and") + " have it");
  }
}

void check_own_plan(const ModelConfig& config, const std::string& where) {
  const SchemeType* type = find_scheme(config.scheme);
  if (type && !type->stored_plan)
    fail("{}: a model of scheme '{}' has a plan of its own; models of {} can have another", where,
         config.scheme, scheme_list([](const SchemeType& one) { return one.stored_plan; }));
}

void check_stored_plan(const ModelConfig& config, const std::string& plan,
                       const std::string& where) {
  check_own_plan(config, where);
  parse_plan(plan, config.text.layers, where);
}

namespace {

bool recognises(const SchemeRelease& release, const Json& config) {
  if (release.recognises) return release.recognises(config);
  return release.decoder && has_architecture(config, release.architecture.c_str());
}

}  // namespace

const SchemeType* recognise_release(const Json& config) {
  if (!config.is_object()) return nullptr;
  for (const SchemeType* type : scheme_types())
    if (recognises(type->release, config)) return type;
  return nullptr;
}

std::string release_chat_format(const Json& config) {
  if (!config.is_object()) return "";
  const SchemeType* release = nullptr;
  const auto names = config.find("architectures");
  if (names != config.end() && names->is_array() && !names->empty())
    for (const SchemeType* type : scheme_types())
      if (!type->release.architecture.empty() && names->front() == type->release.architecture)
        release = type;
  if (!release) release = find_scheme(string_or_empty(config, "model_type"));
  if (!release) return "";
  const auto& formats = release->release.chat_formats;
  const auto format = formats.find(string_or_empty(decoder_part(config), "model_type"));
  return format == formats.end() ? "" : format->second;
}

const SchemeType& looping_scheme() {
  for (const SchemeType* type : scheme_types())
    if (type->looping.section) return *type;
  REPRISE_CHECK(false, "no scheme loops layers");
}

std::unique_ptr<Scheme> make_scheme(const ModelConfig& config) {
  const SchemeType* type = find_scheme(config.scheme);
  if (!type)
    fail("{}: unknown scheme '{}'; this program knows {}", config.where, config.scheme,
         scheme_list([](const SchemeType&) { return true; }));
  return type->make(config);
}

SchemeOption plan_option() {
  return {.name = "plan",
          .type = SchemeOption::Type::Text,
          .help =
              "Order of blocks: 0-14,10-14@0.1,15-23 runs 10 to 14 again, for a tenth of their "
              "update (docs/plans.md)",
          .placeholder = "PLAN"};
}

SchemeOption official_loops_option(std::string name) {
  constexpr int kMostLoops = 1000;
  return {.name = std::move(name),
          .type = SchemeOption::Type::Integer,
          .help = "So many loops instead of the config's; where tokens leave, at most",
          .low = 1,
          .high = kMostLoops,
          .placeholder = "N"};
}

SchemeOption loops_option() { return official_loops_option("loops"); }

std::optional<int64_t> asked_loops(const PlanOptions& options, const std::string& official) {
  const auto loops = options.integer("loops"), other = options.integer(official);
  if (loops && other && *loops != *other)
    fail("{} {} and {} {}: both say how many loops there are, expected one of them",
         option_flag("loops"), *loops, option_flag(official), *other);
  return loops ? loops : other;
}

SchemeOption exit_threshold_option(std::string help) {
  return {.name = "exit_threshold",
          .type = SchemeOption::Type::Number,
          .help = std::move(help),
          .low = 0,
          .high = 1e6,
          .exit = true};
}

Plan Scheme::decode_plan(const PlanOptions& options) const {
  if (const auto plan = options.text("plan"))
    return parse_plan(*plan, config_.text.layers, option_flag("plan"));
  return dense_plan(config_.text.layers);
}

KvSpec Scheme::kv_spec() const {
  return {config_.text.kv_heads, config_.text.head_dim, config_.text.head_dim};
}

AttentionSpec Scheme::attention_spec(int block) const {
  const TextConfig& config = config_.text;
  AttentionSpec spec;
  spec.heads = config.heads;
  spec.kv_heads = config.kv_heads;
  spec.k_dim = spec.v_dim = config.head_dim;
  const BlockConfig& of_block = config.blocks[static_cast<size_t>(block)];
  spec.scale = of_block.scale;
  spec.window = of_block.window;
  spec.softcap = config.score_softcap;
  return spec;
}

Tensor Scheme::mix_weight(Backend&, const Mix& mix, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no gate {}", config_.scheme, mix.gate);
}

Tensor Scheme::inject(Backend&, int index, const Tensor&, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no injection {}", config_.scheme, index);
}

Tensor Scheme::step_norm(Backend&, int index, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no norm {}", config_.scheme, index);
}

Tensor Scheme::scaled_logits(Backend&, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' scales no logits", config_.scheme);
}

std::optional<ExitConfig> Scheme::official_exit(const PlanOptions&) const { return std::nullopt; }

Tensor Scheme::exit_gate(Backend&, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' has no exit gate", config_.scheme);
}

Tensor Scheme::initial_state(Backend&, const Initial& step, const Rows&) const {
  REPRISE_CHECK(false, "scheme '{}' has no initial state {}", config_.scheme, step.index);
}

void Scheme::carry(Backend&, const Carry& step, const Rows&, const Tensor&) const {
  REPRISE_CHECK(false, "scheme '{}' carries nothing on ({})", config_.scheme, step.index);
}

}  // namespace reprise
