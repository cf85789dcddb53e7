// Nemotron-Labs-Dory (arXiv 2611.03998): a looped nGPT. P layers, R layers looped, C layers; all
// states are brought to length 1, n(x) = x / sqrt(sum x^2 + 1e-6). Facts from the code in transformers:
//   e = n(layers in front); each loop: x = n(x) + e, then the looped layers; layers behind; n; head
//   layer: x = n(x); q = rope(n(q)) hd (sqk / r)^2, k = rope(n(k)), by head; a = attention(q, k, v)
//          times sigmoid(g(x) sqrt(d) (s_gate / r)^2); x += |attn_alpha alpha / r| (n(n(a) Wo) - x)
//          x = n(x); m = silu(gate(x) suv_gate sqrt(d)) * up(x) suv_up sqrt(d)
//          x += |mlp_alpha alpha / r| (n(n(m) Wdown) - x)
//   logits = head(n(x)) * logit_scale / r, by token
// with r = initializer_range, alpha = ngpt_alpha_init. Windows and rope bases by layer_types.
//
// How many loops there are each request may choose. KV slots: a layer's number in the first loop,
// L + (loop - 1) R + k in later ones. With recurrent_kv_cache_mode "last_loop" only the last loop
// writes, the looped layers' own slots; earlier loops attend to what it has left of earlier calls and
// to their own keys and values of this one, so that results depend on how a prompt is cut: it isn't.
//
// Config:  counts attention and MLP as two layers: num_hidden_layers, n_input_layers,
//          n_recurrent_layers, n_output_layers, layer_types ("mlp" every second). n_recurrent_loops
//          (2), recurrent_kv_cache_mode "per_loop" | "last_loop", initializer_range, ngpt_alpha_init.
// Tensors: backbone.layers.<2i>.mixer.{q,k,v,g,o}_proj, .mixer.sqk, .mixer.s_gate, .attn_alpha;
//          .<2i + 1>.mixer.{gate,up,down}_proj, .mixer.suv_gate, .mixer.suv_up, .mlp_alpha;
//          backbone.embeddings, lm_head with lm_head.logit_scale [vocabulary].
#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/config/vision_language.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr const char* kName = "DoryForCausalLM";
constexpr const char* kOfficialLoops = "n_recurrent_loops";
constexpr int64_t kMostLoops = 1000;
constexpr float kEps = 1e-6f;  // a constant of the code
constexpr const char *kPerLoop = "per_loop", *kLastLoop = "last_loop";

// What counts attention and MLP apart.
int halved(const JsonObject& json, const char* key, int64_t low) {
  const int64_t both = json.get_int(key, low, 2 * kMostLayers);
  if (both % 2 != 0)
    json.problem_at(key, fmt::format("expected an even number, attention and MLP of each layer, "
                                     "found {}",
                                     both));
  return static_cast<int>(both / 2);
}

class Dory : public Scheme {
 public:
  explicit Dory(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where);
    first_ = halved(keys, "n_input_layers", 0);
    looped_ = halved(keys, "n_recurrent_layers", 2);
    last_ = halved(keys, "n_output_layers", 0);
    if (first_ + looped_ + last_ != config.text.layers)
      keys.fail_at("num_hidden_layers",
                   fmt::format("expected the sum of n_input_layers, n_recurrent_layers and "
                               "n_output_layers ({})",
                               2 * (first_ + looped_ + last_)));
    if (keys.has(kOfficialLoops))
      loops_ = static_cast<int>(keys.get_int(kOfficialLoops, 1, kMostLoops));
    const std::string mode = keys.find_string("recurrent_kv_cache_mode").value_or(kPerLoop);
    if (mode != kPerLoop && mode != kLastLoop)
      keys.fail_at("recurrent_kv_cache_mode", fmt::format("expected \"{}\" or \"{}\", found \"{}\"",
                                                          kPerLoop, kLastLoop, mode));
    last_loop_ = mode == kLastLoop;
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    visitor({.name = names.of("head") + ".logit_scale",
             .shape = {config_.text.vocab},
             .use = WeightUse::Vector,
             .role = Role::Scheme,
             .tensor = &logit_scale_,
             .scheme_role = "logit scales"});
  }

  Plan decode_plan(const PlanOptions& options) const override {
    const int loops = static_cast<int>(asked_loops(options, kOfficialLoops).value_or(loops_));
    Plan plan;
    plan.registers = 1;
    const int rows = config_.text.layers + (last_loop_ ? 0 : (loops - 1) * looped_);
    for (int row = 0; row < rows; ++row) plan.add_kv_row();
    int depth = 0;
    const auto visit = [&](int block, int read, int write) {
      plan.steps.push_back(
          {Visit{.block = block, .read = read, .write = write, .past = read != write},
           fmt::format("layer.{}.out", depth++)});
    };
    const auto norm = [&](int number) {
      plan.steps.push_back({Norm{-1}, fmt::format("norm.{}", number)});
    };
    for (int k = 0; k < first_; ++k) visit(k, k, k);
    norm(0);
    plan.steps.push_back({Save{0}, ""});
    for (int loop = 0; loop < loops; ++loop) {
      norm(1 + loop);
      plan.steps.push_back({Add{0}, ""});
      const bool writes = !last_loop_ || loop + 1 == loops;
      for (int k = 0; k < looped_; ++k) {
        const int own = first_ + k;
        const int row =
            last_loop_ || loop == 0 ? own : config_.text.layers + (loop - 1) * looped_ + k;
        visit(own, row, writes ? row : -1);
      }
      plan.loop_end(loop);
    }
    if (last_ > 0)
      for (Step& step : plan.steps)
        if (auto* end = std::get_if<LoopEnd>(&step.op))
          end->coda = static_cast<int>(plan.steps.size());
    for (int k = first_ + looped_; k < config_.text.layers; ++k) visit(k, k, k);
    return plan;
  }

  Tensor scaled_logits(Backend& be, const Tensor& logits) const override {
    return be.scale(be.mul(logits, logit_scale_), 1 / config_.text.ngpt->range);
  }
  bool scales_logits() const override { return true; }
  std::string final_norm_name(const Plan& plan) const override {
    return fmt::format("norm.{}", plan.loops() + 1);
  }
  int64_t kv_kept(int block) const override {
    const int64_t window = config_.text.blocks[static_cast<size_t>(block)].window;
    return window > 0 ? window - 1 : 0;
  }

 private:
  int first_ = 0, looped_ = 0, last_ = 0;  // layers
  int loops_ = 2;
  bool last_loop_ = false;
  Tensor logit_scale_;  // [vocabulary]
};

void read_decoder(const DecoderKeys& keys, TextConfig& text) {
  refuse_flag(keys, "attention_bias");
  refuse_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
  text.ngpt =
      NgptConfig{.range = static_cast<float>(number_in(keys.json, "initializer_range", 1e-9, 1e6)),
                 .alpha = static_cast<float>(number_in(keys.json, "ngpt_alpha_init", 0, 1e6))};
  text.final_norm.unit = true;
  text.final_norm.eps = kEps;
  for (BlockConfig& block : text.blocks) block.norm = text.final_norm;
  for (int layer = 0; layer < 2 * text.layers; ++layer)
    text.layer_names.push_back(fmt::format("backbone.layers.{}", layer));
}

const Architecture* decoder() {
  static const NameTable table = {
      .layers = "backbone.layers.",
      .attention = "mixer.",
      .names = {{"embed", "backbone.embeddings"},
                {"head", "lm_head"},
                {"q", "mixer.q_proj"},
                {"k", "mixer.k_proj"},
                {"v", "mixer.v_proj"},
                {"g", "mixer.g_proj"},
                {"o", "mixer.o_proj"},
                {"qk_scale", "mixer.sqk"},
                {"gate_scale", "mixer.s_gate"},
                {"attn_alpha", "attn_alpha"},
                {"gate", "mixer.gate_proj"},
                {"up", "mixer.up_proj"},
                {"down", "mixer.down_proj"},
                {"mlp_gate_scale", "mixer.suv_gate"},
                {"mlp_up_scale", "mixer.suv_up"},
                {"mlp_alpha", "mlp_alpha"}},
      .apart = {"gate", "up", "down", "mlp_gate_scale", "mlp_up_scale", "mlp_alpha"}};
  static const Architecture kind = {
      .name = kName, .defaults = {}, .rope = {}, .gguf = {}, .names = &table, .read = read_decoder};
  return &kind;
}

bool is_release(const Json& config) { return has_architecture(config, kName); }

void read_release(const JsonObject& json, ModelConfig& config) {
  Json same = json.json();  // as other decoders count layers
  same["num_hidden_layers"] = halved(json, "num_hidden_layers", 2);
  if (json.has("layer_types")) {
    const Json& both = json.json()["layer_types"];
    Json types = Json::array();
    bool alternates = both.is_array() && both.size() % 2 == 0;
    for (size_t i = 0; alternates && i < both.size(); i += 2) {
      types.push_back(both[i]);
      alternates = both[i + 1] == "mlp";
    }
    if (!alternates)
      json.problem_at("layer_types", "expected the name of an attention and \"mlp\" in turn");
    else
      same["layer_types"] = types;
  }
  config.text = read_text_config(json.instead(same), Dialect::Transformers, *decoder(), kName);
  config.scheme_config = json.json();
}

}  // namespace

const SchemeType& dory_scheme() {
  static const SchemeType type = {
      .name = "dory",
      .summary = "layers of unit length looped as often as a request likes (Nemotron-Labs-Dory)",
      .make = make_as<Dory>,
      .options = {loops_option(), official_loops_option(kOfficialLoops)},
      .release = {.architecture = kName,
                  .recognises = is_release,
                  .read = read_release,
                  .decoder = decoder}};
  return type;
}

}  // namespace reprise
