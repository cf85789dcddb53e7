// Nanbeige4.2: a Llama block whose L layers are run over and over. Facts from the released code:
//   loop: x = norm(layers(x)) with one and the same `model.norm`, so the normed state goes on and the
//   head reads the last one's; with skip_loop_final_norm there is a norm behind the last loop alone
// Every loop has keys and values of its own: slot loop * L + layer. Weights of losses at loop ends say
// how many loops there are: one more than weights, whatever num_loops says.
//
// LoopSplit (in the code, in no release): the layers in front once, the m in the middle (L + m) / m
// times, those behind once, and one norm at the end. Slots are numbered in order of execution; with
// loop_share_kv the repeats read what a layer's first run wrote, and slots are layers.
//
// Config:  "num_loops" (1), "loop_loss_weights": [...], "skip_loop_final_norm",
//          "enable_double_loop_split", "loop_middle_layers": m, a factor of L (L / 2), "loop_share_kv".
//          Hyper connections, depth attention, n-gram embeddings and norms of q and k are refused.
// Tensors: a Llama's. GGUF files of llama.cpp: architecture "nanbeige", as a llama's, with the keys
//          nanbeige.num_loops and nanbeige.skip_loop_final_norm.
#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr const char* kName = "NanbeigeForCausalLM";
constexpr int64_t kMostLoops = 1000;

// What other models of this code compute and that is not done here; absent in the releases.
constexpr const char* kRefused[] = {
    "enable_hyper_connection", "enable_mhc",
    "enable_h_res_identity",   "mhc_identity_nohresparam",
    "mhc_diff_for_loop",       "mhc_double_stream_position_for_loop",
    "enable_depth_attention",  "emb_neighbor_num",
    "emb_split_num",           "ngram_vocab_size_ratio",
    "insert_ngram_layer_idx",  "ngram_insert_all_layers",
    "loop_middle_repeats"};

class Nanbeige : public Scheme {
 public:
  explicit Nanbeige(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where);
    if (keys.json().contains("num_loops"))
      loops_ = static_cast<int>(keys.get_int("num_loops", 1, kMostLoops));
    if (keys.has("loop_loss_weights"))
      if (const size_t weights = keys.get_numbers("loop_loss_weights").size(); weights > 0)
        loops_ = static_cast<int>(weights) + 1;
    norm_ = !keys.find_bool("skip_loop_final_norm").value_or(false);
    share_kv_ = keys.find_bool("loop_share_kv").value_or(false);
    const bool split = keys.find_bool("enable_double_loop_split").value_or(false);
    if (!split) {
      if (share_kv_) keys.fail_at("loop_share_kv", "needs enable_double_loop_split");
      return;
    }
    const int layers = config.text.layers;
    if (keys.has("loop_middle_layers"))
      middle_ = static_cast<int>(keys.get_int("loop_middle_layers", 1, layers));
    else if (layers % 2 == 0)
      middle_ = layers / 2;
    else
      keys.fail_at("loop_middle_layers",
                   fmt::format("is missing, and half of {} layers is no number", layers));
    if (layers % middle_ != 0)
      keys.fail_at(
          "loop_middle_layers",
          fmt::format("expected a factor of num_hidden_layers ({}), found {}", layers, middle_));
  }

  Plan decode_plan(const PlanOptions& options) const override {
    const auto asked = options.integer("loops");
    if (middle_ == 0)
      return looped_plan(config_.text.layers, static_cast<int>(asked.value_or(loops_)), norm_);
    if (asked)
      fail("{}: the model's enable_double_loop_split fixes its loops, {} of {} layers",
           option_flag("loops"), repeats(), middle_);
    return split_plan();
  }

 private:
  int repeats() const { return (config_.text.layers + middle_) / middle_; }

  Plan split_plan() const {
    const int layers = config_.text.layers, first = (layers - middle_) / 2;
    Plan plan;
    if (share_kv_)
      for (int layer = 0; layer < layers; ++layer) plan.add_kv_row();
    int visits = 0;
    const auto visit = [&](int layer, bool repeated) {
      const int row = share_kv_ ? layer : plan.add_kv_row();
      plan.steps.push_back({Visit{layer, row, share_kv_ && repeated ? -1 : row},
                            fmt::format("layer.{}.out", visits++)});
    };
    for (int layer = 0; layer < first; ++layer) visit(layer, false);
    for (int loop = 0; loop < repeats(); ++loop) {
      for (int k = 0; k < middle_; ++k) visit(first + k, loop > 0);
      plan.loop_end(loop);
    }
    if (first + middle_ < layers)
      for (Step& step : plan.steps)
        if (auto* end = std::get_if<LoopEnd>(&step.op))
          end->coda = static_cast<int>(plan.steps.size());
    for (int layer = first + middle_; layer < layers; ++layer) visit(layer, false);
    return plan;
  }

  int loops_ = 1;
  bool norm_ = true;  // between loops
  int middle_ = 0;    // layers that LoopSplit repeats; 0: all layers are looped
  bool share_kv_ = false;
};

void read_decoder(const DecoderKeys& keys, TextConfig& text) {
  text.qkv_bias = text.o_bias = read_flag(keys, "attention_bias");
  text.mlp_bias = read_flag(keys, "mlp_bias");
  read_windows(keys, /*absent=*/0, /*first=*/kNoLayer, text);
  for (const char* key : kRefused) {
    if (!keys.json.has(key)) continue;
    const Json& value = keys.json.json()[key];
    if (value != false && !(value.is_array() && value.empty()))
      keys.json.problem_at(key, value.dump() + " is not supported: expected none");
  }
}

const Architecture* decoder() {
  static const Architecture kind = {.name = kName,
                                    .model_type = "nanbeige",
                                    .defaults = {.max_position = 2048},
                                    .rope = {},
                                    .gguf = {.name = "nanbeige",
                                             .interleaved = true,
                                             .optional_biases = true,
                                             .keys = {"num_loops", "skip_loop_final_norm"},
                                             .to_folder = write_no_windows},
                                    .read = read_decoder};
  return &kind;
}

}  // namespace

const SchemeType& nanbeige_scheme() {
  static const SchemeType type = {
      .name = "nanbeige",
      .summary = "all layers looped, or those in the middle (Nanbeige4.2)",
      .make = make_as<Nanbeige>,
      .options = {loops_option()},
      .release = {.architecture = kName, .decoder = decoder}};
  return type;
}

}  // namespace reprise
