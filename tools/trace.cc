// `reprise trace`: runs token ids (and pixels) from a file through a model and writes every
// intermediate result under the names of the golden data. The inputs of a golden case file with one
// row are accepted as they are.
#include "trace/trace.h"

#include <fmt/format.h>

#include "base/json.h"
#include "tools/beam_options.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/options.h"
#include "trace/trace_beams.h"
#include "trace/trace_exits.h"
#include "train/lm_trace.h"
#include "train/loss_trace.h"

namespace reprise::tools {
namespace {

class TraceCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Writes the intermediate results of a forward pass to a safetensors file");
    app.footer(
        "IN holds input_ids int64 [n] and optionally pixel_values float32 [tiles, 3, H, W] or\n"
        "pixel_u8, and of models that loop on states of their own input_states float32 [n, d] and\n"
        "decode.states (else zeros, or --init-scale). OUT gets layer.<depth>.out, final_norm, logits, decode.tokens and more; with\n"
        "--beams beams.tokens [returned, longest], -1 behind the end, and beams.scores.\n"
        "With a rule to leave loops by, exit_step [n] and decode.exit_step say whose loop's logits\n"
        "these are (--exit-mode select); with mode skip early.tokens [steps + 1], exit_loop,\n"
        "exit_logits, exit_hidden, confidence, k and v of tokens that leave early.\n"
        "Inputs with labels int64 [n] give loss, logits and (--backend torch) grad.<tensor> instead.\n"
        "Inputs with tokens int64 [rows, context + 1] give loss.<name> and gradnorm.<name> of\n"
        "language modelling (ce, exits, with --teacher divergences), with --loss grad.<tensor>.\n"
        "Example: reprise trace MODEL --inputs case.safetensors --out out.safetensors --steps 6");
    flags_.add(app);
    add_plan_options(app, options_.plan);
    app.add_option("--inputs", inputs_, "Inputs, safetensors")->type_name("IN")->required();
    app.add_option("--out", out_, "Results, safetensors")->type_name("OUT")->required();
    app.add_option("--steps", options_.steps, "Greedy tokens to generate")
        ->check(cli::Range(0, 100000))
        ->capture_default_str();
    add_beam_options(app, beam_);
    beams_ = app.get_option("--beams");
    exit_.add(app, {.official = true, .select = true});
    app.add_option("--chunk", options_.chunk, "Prompt tokens of one forward call")
        ->check(cli::Range(1, 1 << 30))
        ->capture_default_str();
    app.add_option("--teacher", lm_.teacher, "Losses: a model of the same vocabulary to learn from")
        ->type_name("MODEL");
    app.add_option("--loss", lm_.loss, "Losses: the one whose gradients are written")
        ->type_name("NAME");
  }

  int run() override {
    if (beams_->count() > 0) {
      beam_.check();
      if (options_.steps == 0) fail("--beams: expected --steps, the most tokens of a beam");
    }
    const LoadedModelOptions options = flags_.options();
    check_output_path(out_, "--out");
    const bool tokens = has_lm_tokens(inputs_), labels = has_labels(inputs_);
    if (tokens || labels) refuse_decoding(labels ? "labels" : "tokens");
    if (tokens) return run_lm_losses(options);
    for (const auto& [name, given] :
         {std::pair{"--teacher", !lm_.teacher.empty()}, std::pair{"--loss", !lm_.loss.empty()}})
      if (given) fail("{}: expected inputs with tokens [rows, context + 1]", name);
    if (labels) return run_loss(options);
    const TokenInputs inputs = read_token_inputs(inputs_);
    const auto loaded = LoadedModel::load(options);
    const Model& model = loaded->model();
    options_.exit = exit_.resolve(model, model.decode_plan(options_.plan), options_.plan);
    const bool skips = options_.exit.active() && options_.exit.mode == ExitMode::Skip;
    if (skips && exit_.given() && options_.steps == 0)
      fail("--exit: expected --steps, the tokens to run");
    // Where the prompt leaves too, the trace itself is of tokens that leave early.
    const bool early = skips && !options_.exit.prompts;
    check_length(*loaded, inputs, early);
    std::vector<TensorView> results = trace(*loaded, inputs, options_);
    if (beams_->count() > 0) trace_beams(*loaded, inputs, options_, beam_, results);
    if (early && options_.steps > 0) trace_exits(*loaded, inputs, options_, options_.exit, results);
    write_safetensors(out_, results, {{"model", flags_.model}});
    Json summary = {{"tensors", results.size()}, {"tokens", inputs.ids.size()}};
    if (loaded->quantizes_activations()) {
      const auto reference = LoadedModel::load(exact_activations(options));
      summary["kl_divergence"] = trace_kl(trace(*reference, inputs, options_), results);
    }
    print_json(summary);
    return 0;
  }

 private:
  // Losses are of the inputs alone, by the model's own plan. why: the tensor that asks for them.
  void refuse_decoding(const char* why) const {
    for (const auto& [name, given] :
         {std::pair{"--steps", options_.steps > 0}, std::pair{"--beams", beams_->count() > 0},
          std::pair{"--exit", exit_.given()}})
      if (given)
        fail("{}: {} asks for losses ({}), beside which nothing is generated", name, inputs_, why);
    if (!options_.plan.empty())
      fail("{}: {} asks for losses ({}), which are those of the model's own plan",
           option_flag(options_.plan.values().begin()->first), inputs_, why);
  }

  // A token that is generated last isn't run, unless tokens that leave early are traced.
  void check_length(const LoadedModel& loaded, const TokenInputs& inputs, bool skips) const {
    const int64_t limit = loaded.context_limit(), prompt = std::ssize(inputs.ids);
    if (limit == 0) return;
    if (prompt > limit)
      fail("--inputs {}: has {} tokens, the context of {} has {}", inputs_, prompt,
           loaded.config().where, limit);
    const int64_t most = limit - prompt + (skips ? 0 : 1);
    if (options_.steps > most)
      fail("--steps {}: behind the {} tokens of {} the context of {} ({}) leaves room for {}",
           options_.steps, prompt, inputs_, loaded.config().where, limit, most);
  }

  int run_loss(const LoadedModelOptions& options) {
    const auto loaded = LoadedModel::load(options);
    const std::vector<TensorView> results = trace_loss(*loaded, inputs_);
    write_safetensors(out_, results, {{"model", flags_.model}});
    print_json({{"tensors", results.size()}, {"loss", to_floats(results[0])[0]}});
    return 0;
  }

  int run_lm_losses(const LoadedModelOptions& options) {
    const auto loaded = LoadedModel::load(options);
    const std::vector<TensorView> results = trace_lm_losses(*loaded, inputs_, lm_);
    write_safetensors(out_, results, {{"model", flags_.model}});
    Json summary = {{"tensors", results.size()}};
    for (const TensorView& result : results)
      if (result.name.starts_with("loss.")) summary[result.name] = to_floats(result)[0];
    print_json(summary);
    return 0;
  }

  ModelFlags flags_;
  std::string inputs_;
  std::string out_;
  TraceOptions options_;
  BeamOptions beam_;
  ExitFlags exit_;
  LmTraceOptions lm_;
  cli::Option* beams_ = nullptr;
};

}  // namespace

std::unique_ptr<Command> make_trace_command() { return std::make_unique<TraceCommand>(); }

}  // namespace reprise::tools
