// Huginn-0125 (arXiv 2502.05171) and the Llama models retrofitted to its form: P layers, R layers
// looped on a state that starts anew for every token and is given the layers' result again in every
// loop, C layers behind the loops. Facts from the released code:
//   e = prelude(embedding), s_0 = random
//   loop t: s = core(W [s, e]), the state first
//   huginn:      x = norm(coda(norm(s))) with one and the same `ln_f`, tied head
//     layer:     x = norm_2(x + attention(norm_1 x)), x = norm_4(x + mlp(norm_3 x)): the state itself
//                is normed; biases on q and k, rope on pairs (2i, 2i + 1), embedding * sqrt(d)
//   retrofitted: x = norm(coda(s)), a head of its own
//     layer:     Llama's (norm_1, norm_2), rope on halves as rope_theta and rope_scaling say,
//                grouped KV heads, the embedding as it is
// The random state: normal of deviation `std`, cut at 3 of them, times the embedding's scale; drawn
// anew for each position of each call. Here a draw follows from the request's seed, the position and
// the component alone. init_scale 0: zeros. continuous_compute: a generated token starts from where
// the one before ended: behind `ln_f`, with a criterion from the plain state.
//
// KV slots: prelude 0 to P - 1, core P + loop * R + k, coda -1, -2, ...
//
// The criteria compare two loops (ExitKind); a prompt leaves by its last position, as a whole. What
// later tokens see of one that left, in the loops that it hasn't run: "full" and "skip" nothing,
// "latest-m4" its deepest entries, "always-last-m4" the same, and the deepest of everybody, also from
// beyond, where somebody's are missing. The released code finds those by slot modulo 4, which is right
// for P = 2 and R = 4 alone: both are refused elsewhere.
//
// Config:  n_embd, n_heads, intermediate_size, n_layers_in_prelude, n_layers_in_recurrent_block,
//          n_layers_in_coda, mean_recurrence: loops (32), block_size, norm_eps, rope_base, qk_bias,
//          tie_embeddings, init_values {std, embed_scale}; retrofitted where qk_bias and
//          tie_embeddings are false and embed_scale is 1.
// Tensors: transformer.{prelude,core_block,coda}.<i>.{attn.Wqkv,attn.proj,attn.qk_bias,mlp.fc,
//          mlp.proj,norm_1..4}, .wte, .ln_f, .adapter [d, 2 d]; freqs_cis is rope's table.
#include <fmt/format.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"
#include "base/rng.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/config/vision_language.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr const char* kName = "RavenForCausalLM";
constexpr const char* kOfficialLoops = "num_steps";
constexpr int64_t kMostLoops = 1000;
constexpr int kLoops = 32;  // where the config doesn't say
constexpr float kCut = 3;   // of the random state, in deviations
// Of the random numbers: no other draw of a request has these streams.
constexpr uint64_t kStream = uint64_t{1} << 48;
enum { kFresh = 0, kContinued = 1 };  // Initial::index

struct Criterion {
  const char* name;
  double threshold;  // "auto"
};
constexpr Criterion kCriteria[] = {
    {"kl", 1e-3},           {"latent-diff", 0.03},   {"cosine", 1e-3},
    {"entropy-diff", 1e-3}, {"argmax-stability", 5}, {"minp-kl", 1e-5}};
constexpr const char *kFull = "full", *kSkip = "skip", *kLatest = "latest-m4",
                     *kAlwaysLast = "always-last-m4";

bool retrofitted(const Json& config) {
  const auto values = config.find("init_values");
  const auto says = [](const Json& object, const char* key, const Json& value) {
    return object.contains(key) && object[key] == value;
  };
  return says(config, "qk_bias", false) && says(config, "tie_embeddings", false) &&
         values != config.end() && values->is_object() && says(*values, "embed_scale", 1.0);
}

// Where each token's last state lies until the next one starts from it.
struct CarriedStates : SchemeState {
  std::map<int64_t, Tensor> at;  // by position, [1, d]
  std::unique_ptr<SchemeState> clone() const override {
    return std::make_unique<CarriedStates>(*this);
  }
  void truncate(int64_t length) override { at.erase(at.lower_bound(length), at.end()); }
};

class Huginn : public Scheme {
 public:
  explicit Huginn(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where);
    const auto layers = [&](const char* key) {
      return static_cast<int>(keys.get_int(key, 1, kMostLayers));
    };
    prelude_ = layers("n_layers_in_prelude");
    core_ = layers("n_layers_in_recurrent_block");
    coda_ = layers("n_layers_in_coda");
    if (keys.has("mean_recurrence"))
      loops_ = static_cast<int>(keys.get_int("mean_recurrence", 1, kMostLoops));
    normed_ = !retrofitted(keys.json());
    const float d = static_cast<float>(config.text.d);
    deviation_ = std::sqrt(2 / (5 * d));
    if (const auto values = keys.find_object("init_values"); values && values->has("std"))
      deviation_ = static_cast<float>(number_in(*values, "std", 0, 1e6));
    deviation_ *= config.text.embed_scale;
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    const int64_t d = config_.text.d;
    visitor({.name = names.prefix + "transformer.adapter.weight",
             .shape = {d, 2 * d},
             .use = WeightUse::Matrix,
             .role = Role::Scheme,
             .tensor = &adapter_.weight,
             .scheme_role = "injection"});
  }

  Plan prefill_plan(const PlanOptions& options) const override { return plan(options, kFresh); }
  Plan decode_plan(const PlanOptions& options) const override {
    return plan(options, options.flag("continuous_compute") ? kContinued : kFresh);
  }

  Tensor inject(Backend& be, int, const Tensor& x, const Tensor& kept) const override {
    const Tensor both[] = {x, kept};
    return be.linear(be.concat(both, 1), adapter_);
  }

  Tensor initial_state(Backend& be, const Initial& step, const Rows& rows) const override {
    const int64_t d = config_.text.d;
    std::vector<Tensor> parts;
    for (const RowSegment& segment : rows.segments) {
      const int64_t first = segment.first_row, behind = first + segment.rows;
      if (const Tensor carried = continued(step, segment, rows)) {
        parts.push_back(carried);
        continue;
      }
      std::vector<float> values;
      for (int64_t row = first; row < behind; ++row)
        append_state(segment.sequence, rows.positions[static_cast<size_t>(row)], step.scale,
                     values);
      parts.push_back(be.from_host(values, {segment.rows, d}));
    }
    return parts.size() == 1 ? parts[0] : be.concat(parts, 0);
  }

  void carry(Backend& be, const Carry&, const Rows& rows, const Tensor& x) const override {
    for (const RowSegment& segment : rows.segments) {
      if (!segment.sequence) continue;
      const int64_t last = segment.first_row + segment.rows - 1;
      std::unique_ptr<SchemeState>& state = segment.sequence->scheme;
      if (!state) state = std::make_unique<CarriedStates>();
      static_cast<CarriedStates&>(*state).at[rows.positions[static_cast<size_t>(last)]] =
          be.slice(x, 0, last, last + 1);
    }
  }

  std::optional<ExitConfig> official_exit(const PlanOptions& options) const override {
    const auto name = options.text("criterion");
    const auto threshold = options.number("exit_threshold");
    if (!name || *name == "none") {
      if (threshold)
        fail("{} {}: means nothing without a criterion", option_flag("exit_threshold"), *threshold);
      return std::nullopt;
    }
    ExitConfig exit{.kind = parse_exit_kind(*name)};
    for (const Criterion& known : kCriteria)
      if (*name == known.name) exit.threshold = threshold.value_or(known.threshold);
    if (const std::string problem = exit_threshold_problem(exit.kind, exit.threshold);
        !problem.empty())
      fail("{}: of criterion {}: {}", option_flag("exit_threshold"), *name, problem);
    return as_released(exit, options);
  }

  ExitConfig own_exit(const ExitConfig& exit, const PlanOptions& options) const override {
    const std::string name = exit_kind_name(exit.kind);
    const bool own =
        std::ranges::any_of(kCriteria, [&](const Criterion& known) { return name == known.name; });
    if (!own || exit.mode == ExitMode::Select) return exit;
    if (options.flag("continuous_compute"))
      fail("{}: with a criterion tokens start from another state; expected {} {} instead of --exit",
           option_flag("continuous_compute"), option_flag("criterion"), name);
    return as_released(exit, options);
  }

  int kv_slot(const Plan& plan, int row) const override {
    const int behind = row - prelude_ - core_ * plan.loops();
    return behind < 0 ? row : -1 - behind;
  }

 private:
  Plan plan(const PlanOptions& options, int initial) const {
    const int loops = static_cast<int>(asked_loops(options, kOfficialLoops).value_or(loops_));
    const std::string lookup = options.text("cache_lookup_strategy").value_or(kFull);
    const bool deepest = lookup == kAlwaysLast;
    if ((deepest || lookup == kLatest) && (prelude_ != 2 || core_ != 4))
      fail("{} {}: holds for 2 layers in front of 4 looped ones, the model has {} and {}",
           option_flag("cache_lookup_strategy"), lookup, prelude_, core_);
    Plan plan;
    plan.registers = 2;
    const auto step = [&](auto op, std::string label = "") {
      plan.steps.push_back({op, std::move(label)});
    };
    const auto visit = [&](int block, int deepest_row = -1) {
      const int row = plan.add_kv_row();
      step(Visit{.block = block, .read = row, .write = row, .deepest = deepest_row},
           fmt::format("layer.{}.out", row));
    };
    const int first_deepest = prelude_ + loops * core_ + coda_;
    for (int k = 0; k < prelude_; ++k) visit(k);
    step(Save{0});
    step(Initial{initial, static_cast<float>(options.number("init_scale").value_or(1))});
    for (int loop = 0; loop < loops; ++loop) {
      step(Inject{0, 0}, fmt::format("loop.{}.adapter", loop));
      for (int k = 0; k < core_; ++k) visit(prelude_ + k, deepest ? first_deepest + k : -1);
      plan.loop_end(loop);
    }
    const int coda = static_cast<int>(plan.steps.size());
    for (Step& one : plan.steps)
      if (auto* end = std::get_if<LoopEnd>(&one.op)) end->coda = coda;
    const bool carries = options.flag("continuous_compute");
    const bool plain = options.has("criterion") || !normed_;  // what is carried on
    if (carries && plain) step(Carry{0});
    if (normed_) step(Norm{-1}, "recurrence_norm");
    if (carries && !plain) step(Carry{0});
    step(Save{1}, "latent");  // what the released code gives back; nothing reads it
    for (int k = 0; k < coda_; ++k) visit(prelude_ + core_ + k);
    if (deepest)
      for (int k = 0; k < core_; ++k) plan.add_kv_row();
    return plan;
  }

  ExitConfig as_released(ExitConfig exit, const PlanOptions& options) const {
    exit.prompts = true;
    exit.kv = options.text("cache_lookup_strategy") == kLatest ? ExitKv::Share : ExitKv::Missing;
    return exit;
  }

  // The state that the one token of this segment goes on from; none where it starts anew.
  static Tensor continued(const Initial& step, const RowSegment& segment, const Rows& rows) {
    const int32_t position = rows.positions[static_cast<size_t>(segment.first_row)];
    if (step.index != kContinued || !segment.sequence || position == 0) return {};
    const auto* carried = static_cast<const CarriedStates*>(segment.sequence->scheme.get());
    REPRISE_CHECK(segment.rows == 1 && carried && carried->at.contains(position - 1),
                  "no state of position {}", position - 1);
    return carried->at.at(position - 1);
  }

  void append_state(const Sequence* sequence, int32_t position, float scale,
                    std::vector<float>& values) const {
    static const InitialStates drawn;
    const InitialStates& from = sequence && sequence->initial ? *sequence->initial : drawn;
    const auto d = static_cast<size_t>(config_.text.d), at = static_cast<size_t>(position) * d;
    if (at + d <= from.given.size()) {
      values.insert(values.end(), from.given.begin() + static_cast<std::ptrdiff_t>(at),
                    from.given.begin() + static_cast<std::ptrdiff_t>(at + d));
      return;
    }
    const float deviation = from.drawn ? deviation_ * scale : 0;
    const Philox random(from.seed, kStream + static_cast<uint64_t>(position));
    for (size_t i = 0; i < d; ++i) {
      float value = 0;
      uint64_t draw = i;
      if (deviation > 0) do {
          value = random.normal(draw);
          draw += d;
        } while (std::abs(value) > kCut);
      values.push_back(deviation * value);
    }
  }

  int prelude_ = 0, core_ = 0, coda_ = 0;  // layers
  int loops_ = kLoops;
  bool normed_ = true;   // between loops and coda
  float deviation_ = 0;  // of the random state
  LinearWeight adapter_;
};

void read_layers(const JsonObject& json, TextConfig& text) {
  for (const auto& [key, name] : {std::pair{"n_layers_in_prelude", "prelude"},
                                  std::pair{"n_layers_in_recurrent_block", "core_block"},
                                  std::pair{"n_layers_in_coda", "coda"}}) {
    const int64_t layers = json.get_int(key, 1, kMostLayers);
    for (int64_t i = 0; i < layers; ++i)
      text.layer_names.push_back(fmt::format("transformer.{}.{}", name, i));
  }
}

void read_fused(const DecoderKeys& keys, TextConfig& text) {
  text.fused_qkv = text.fused_gate_up = true;
  refuse_flag(keys, "bias");
  read_layers(keys.json, text);
}

void read_huginn(const DecoderKeys& keys, TextConfig& text) {
  read_fused(keys, text);
  const bool bias = read_flag(keys, "qk_bias");
  if (bias && text.kv_heads != text.heads)
    keys.json.problem_at("num_key_value_heads",
                         fmt::format("expected n_heads ({}), as qk_bias has", text.heads));
  for (BlockConfig& block : text.blocks) {
    block.post_norm = PostNorm::State;
    block.qk_bias = bias;
  }
  text.embed_scale = std::sqrt(static_cast<float>(text.d));
  if (const auto values = keys.json.find_object("init_values");
      values && values->has("embed_scale"))
    text.embed_scale = static_cast<float>(number_in(*values, "embed_scale", 0, 1e6));
}

std::map<std::string, const char*> names_of(std::map<std::string, const char*> norms) {
  norms.insert({{"embed", "transformer.wte"},
                {"head", "lm_head"},
                {"final_norm", "transformer.ln_f"},
                {"qkv", "attn.Wqkv"},
                {"qk_bias", "attn.qk_bias"},
                {"o", "attn.proj"},
                {"gate_up", "mlp.fc"},
                {"down", "mlp.proj"}});
  return norms;
}

const Architecture* huginn_decoder() {
  static const NameTable table = {.layers = "transformer.",
                                  .attention = "attn.",
                                  .names = names_of({{"attn_norm", "norm_1"},
                                                     {"attn_post_norm", "norm_2"},
                                                     {"mlp_norm", "norm_3"},
                                                     {"mlp_post_norm", "norm_4"}})};
  static const Architecture kind = {.name = kName,
                                    .defaults = {},
                                    .rope = {},
                                    .gguf = {},
                                    .unread = {"freqs_cis"},
                                    .names = &table,
                                    .read = read_huginn};
  return &kind;
}

const Architecture* retrofitted_decoder() {
  static const NameTable table = {
      .layers = "transformer.",
      .attention = "attn.",
      .names = names_of({{"attn_norm", "norm_1"}, {"mlp_norm", "norm_2"}})};
  static const Architecture kind = {.name = kName,
                                    .defaults = {},
                                    .rope = {},
                                    .gguf = {},
                                    .unread = {"freqs_cis"},
                                    .names = &table,
                                    .read = read_fused};
  return &kind;
}

bool is_release(const Json& config) { return has_architecture(config, kName); }

// What other models of this code compute and that is not done here.
void refuse_others(const JsonObject& json) {
  const std::pair<const char*, const char*> only[] = {{"injection_type", "linear"},
                                                      {"state_init", "like-init"},
                                                      {"norm_class_name", "RMSNorm_llama"},
                                                      {"mlp_class_name", "GatedMLP"},
                                                      {"nonlin_name", "SiLU"},
                                                      {"block_class_name", "SandwichBlock"}};
  for (const auto& [key, known] : only)
    if (json.has(key) && json.json()[key] != known)
      json.problem_at(key,
                      fmt::format("expected \"{}\", found {}", known, json.json()[key].dump()));
  if (json.find_number("test_time_noise").value_or(0) != 0)
    json.problem_at("test_time_noise", "expected 0: noise is not supported");
}

void read_release(const JsonObject& json, ModelConfig& config) {
  refuse_others(json);
  const bool old = retrofitted(json.json());
  const int64_t heads = json.get_int("n_heads", 1, kMostWidth);
  if (json.find_int("num_attention_heads").value_or(heads) != heads)
    json.problem_at("num_attention_heads", fmt::format("expected n_heads ({})", heads));
  // The same under the names that other decoders have for it.
  Json same = json.json();
  int64_t layers = 0;
  for (const char* key : {"n_layers_in_prelude", "n_layers_in_recurrent_block", "n_layers_in_coda"})
    layers += json.get_int(key, 1, kMostLayers);
  same["num_hidden_layers"] = std::min(layers, kMostLayers);
  same["num_attention_heads"] = heads;
  same["hidden_size"] = json.get_int("n_embd", 1, kMostWidth);
  if (json.has("padded_vocab_size"))
    same["vocab_size"] = json.get_int("padded_vocab_size", 1, 1 << 24);
  if (!json.has("max_position_embeddings"))
    same["max_position_embeddings"] = json.get_int("block_size", 1, kMostTokens);
  same["rms_norm_eps"] = number_in(json, "norm_eps", kLeastEps, kMostEps);
  same["tie_word_embeddings"] = json.get_bool("tie_embeddings");
  same["hidden_act"] = "silu";
  if (!old) same["rope_theta"] = json.get_number("rope_base");
  config.text = read_text_config(json.instead(same), Dialect::Transformers,
                                 old ? *retrofitted_decoder() : *huginn_decoder(), kName);
  if (!old)
    for (RopeConfig& rope : config.text.ropes) rope.interleaved = true;
  config.scheme_config = json.json();
}

}  // namespace

const SchemeType& huginn_scheme() {
  using Type = SchemeOption::Type;
  static const SchemeType type = {
      .name = "huginn",
      .summary = "layers looped on a state of their own, given their input anew (Huginn-0125)",
      .make = make_as<Huginn>,
      .options = {loops_option(),
                  official_loops_option(kOfficialLoops),
                  {.name = "criterion",
                   .type = Type::Choice,
                   .help = "What has to have settled for a token to leave the loops",
                   .choices = {"none", "kl", "latent-diff", "cosine", "entropy-diff",
                               "argmax-stability", "minp-kl"},
                   .exit = true},
                  exit_threshold_option("The criterion's value to leave below; argmax-stability: "
                                        "how many times in a row. By default the released code's"),
                  {.name = "cache_lookup_strategy",
                   .type = Type::Choice,
                   .help = "What tokens see of others in loops that those have left out",
                   .choices = {kFull, kSkip, kLatest, kAlwaysLast},
                   .fallback = kFull},
                  {.name = "init_scale",
                   .type = Type::Number,
                   .help = "Scale of the random initial states; 0: zeros",
                   .low = 0,
                   .high = 1e6,
                   .fallback = "1",
                   .states = true},
                  {.name = "continuous_compute",
                   .type = Type::Flag,
                   .help = "A generated token's loops start from where the token's before ended"}},
      .release = {.architecture = kName,
                  .recognises = is_release,
                  .read = read_release,
                  .decoder = huginn_decoder}};
  return type;
}

}  // namespace reprise
