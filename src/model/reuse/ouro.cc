// Ouro, looped language models (arXiv 2510.25741): all layers are run T times over, and the normed
// state goes on from loop to loop, to the gate and to the head. Facts from the released code:
//   x_0 = embedding; loop t: x = norm(layers(x)), with one and the same `model.norm`
//   layer: x += norm_2(attention(norm_1(x))), x += norm_4(mlp(norm_3(x)))
//   lambda_t = sigmoid(w . x + b), p_t = lambda_t prod (1 - lambda_j), the last loop what remains
// All loops are always run, so that every loop has keys and values of its own for every token: slot
// t * layers + layer. The exit only chooses, by position and for those of a prompt too, whose loop's
// state the head reads (mode Select): the first one whose running sum of p reaches a threshold, else
// the last. What a token's logits are doesn't depend on deeper loops, so really leaving those out
// (mode Skip, ours) gives the same with exact keys and values.
//
// The released precedence: labels (the mean of all loops' logits by p, for the loss too), then a
// step, then a threshold, then use_weighted_exit. With the threshold of 1 that a config without one
// means, tokens still leave early where lambda rounds to 1.
//
// Config:  "total_ut_steps": T (4), "early_exit_threshold": number or null (1), "early_exit_step":
//          loop from 0, or none.
// Tensors: a Llama's, "input_layernorm_2" and "post_attention_layernorm_2" behind attention and MLP,
//          "model.early_exit_gate.weight" [1, d] and ".bias" [1].
#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr const char* kName = "OuroForCausalLM";
constexpr int64_t kMostLoops = 1000;
constexpr int kLoops = 4;         // where the config doesn't say
constexpr double kThreshold = 1;  // the same
constexpr double kNoExit = 1e6;   // more than any sum of probabilities

class Ouro : public Scheme {
 public:
  explicit Ouro(const ModelConfig& config)
      : Scheme(config), loops_(kLoops), threshold_(kThreshold) {
    const JsonObject keys(config.scheme_config, config.where);
    const auto absent = [&](const char* key) { return !keys.json().contains(key); };
    if (!absent("total_ut_steps"))
      loops_ = static_cast<int>(keys.get_int("total_ut_steps", 1, kMostLoops));
    if (!absent("early_exit_threshold")) {
      threshold_.reset();  // null
      if (keys.has("early_exit_threshold"))
        threshold_ = number_in(keys, "early_exit_threshold", 0, kNoExit);
    }
    if (keys.has("early_exit_step"))
      step_ = static_cast<int>(keys.get_int("early_exit_step", 0, loops_ - 1));
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    const std::string gate = names.prefix + "model.early_exit_gate";
    visitor({gate + ".weight", {1, config_.text.d}, WeightUse::Matrix, Role::Gate, &gate_.weight});
    visitor({gate + ".bias", {1}, WeightUse::Vector, Role::Gate, &gate_.bias});
  }

  Plan decode_plan(const PlanOptions& options) const override {
    return looped_plan(config_.text.layers, loops_of(options), /*norm=*/true);
  }

  bool has_exit_gate() const override { return true; }
  bool exit_gate_reads_normed() const override { return true; }
  Tensor exit_gate(Backend& be, const Tensor& normed) const override {
    return be.linear(normed, gate_);
  }
  bool selects() const override { return true; }

  std::optional<ExitConfig> official_exit(const PlanOptions& options) const override {
    const int loops = loops_of(options);
    const auto asked = options.integer("exit_at_step");
    if (const std::optional<int64_t> step = asked ? asked : step_) {
      if (*step >= loops)
        fail("{}: expected a loop from 0 to {} of {}",
             asked ? option_flag("exit_at_step") + " " + std::to_string(*step)
                   : fmt::format("{}: key 'early_exit_step': {}", config_.where, *step),
             loops - 1, loops);
      return ExitConfig{.kind = ExitKind::Step, .threshold = static_cast<double>(*step)};
    }
    const std::optional<double> own = options.number("exit_threshold");
    const std::optional<double> threshold = own ? own : threshold_;
    const bool weighted = options.flag("use_weighted_exit");
    if (threshold && weighted)
      fail("{}: means nothing beside a threshold ({}{}); expected null there, or --exit weighted",
           option_flag("use_weighted_exit"), own ? "exit_threshold " : "early_exit_threshold ",
           *threshold);
    if (threshold) return ExitConfig{.kind = ExitKind::Cdf, .threshold = *threshold};
    if (weighted) return ExitConfig{.kind = ExitKind::Weighted, .mode = ExitMode::Select};
    return std::nullopt;
  }

 private:
  int loops_of(const PlanOptions& options) const {
    return static_cast<int>(options.integer("loops").value_or(loops_));
  }

  int loops_;
  std::optional<double> threshold_;
  std::optional<int64_t> step_;
  LinearWeight gate_;  // [1, d] with a bias
};

void read_decoder(const DecoderKeys& keys, TextConfig& text) {
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  for (BlockConfig& block : text.blocks) block.post_norm = PostNorm::Branch;
  read_switched_windows(keys, text);
}

const NameTable& tensor_table() {
  static const NameTable table = [] {
    NameTable names = hugging_face_names();
    names.names["attn_post_norm"] = "input_layernorm_2";
    names.names["mlp_post_norm"] = "post_attention_layernorm_2";
    return names;
  }();
  return table;
}

const Architecture* decoder() {
  static const Architecture kind = {.name = kName,
                                    .defaults = {.kv_heads = 32, .max_position = 32768},
                                    .rope = {},
                                    .gguf = {},
                                    .names = &tensor_table(),
                                    .read = read_decoder};
  return &kind;
}

}  // namespace

const SchemeType& ouro_scheme() {
  using Type = SchemeOption::Type;
  static const SchemeType type = {
      .name = "ouro",
      .summary = "all layers looped on the normed state, with a learned exit (Ouro)",
      .make = make_as<Ouro>,
      .options = {loops_option(),
                  {.name = "exit_at_step",
                   .type = Type::Integer,
                   .help = "The loop, from 0, whose state the head reads",
                   .low = 0,
                   .high = kMostLoops - 1,
                   .placeholder = "N",
                   .exit = true},
                  exit_threshold_option("The head reads the first loop up to which the gates' "
                                        "probabilities to leave sum up to X"),
                  {.name = "use_weighted_exit",
                   .type = Type::Flag,
                   .help = "The mean of all loops' logits, where the config's threshold is null",
                   .exit = true}},
      .release = {.architecture = kName, .decoder = decoder}};
  return type;
}

}  // namespace reprise
