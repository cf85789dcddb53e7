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
#include "train/loss_trace.h"

namespace reprise::tools {
namespace {

class TraceCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Writes the intermediate results of a forward pass to a safetensors file");
    app.footer(
        "IN holds input_ids int64 [n] and optionally pixel_values float32 [tiles, 3, H, W] or\n"
        "pixel_u8. OUT gets layer.<depth>.out, final_norm, logits, decode.tokens and more; with\n"
        "--beams beams.tokens [returned, longest], -1 behind the end, and beams.scores.\n"
        "With --exit early.tokens [steps + 1], exit_loop, exit_logits, exit_hidden, confidence, k and\n"
        "v of tokens that leave early.\n"
        "Inputs with labels int64 [n] give loss and grad.<tensor> instead (--backend torch).\n"
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
    exit_.add(app, /*own_rule=*/false);
    app.add_option("--chunk", options_.chunk, "Prompt tokens of one forward call")
        ->check(cli::Range(1, 1 << 30))
        ->capture_default_str();
  }

  int run() override {
    if (beams_->count() > 0) {
      beam_.check();
      if (options_.steps == 0) fail("--beams: expected --steps, the most tokens of a beam");
    }
    if (exit_.given() && options_.steps == 0) fail("--exit: expected --steps, the tokens to run");
    const LoadedModelOptions options = flags_.options();
    check_output_path(out_, "--out");
    if (has_labels(inputs_)) return run_loss(options);
    const TokenInputs inputs = read_token_inputs(inputs_);
    const auto loaded = LoadedModel::load(options);
    const Model& model = loaded->model();
    const ExitConfig exit = exit_.resolve(model, model.decode_plan(options_.plan));
    std::vector<TensorView> results = trace(*loaded, inputs, options_);
    if (beams_->count() > 0) trace_beams(*loaded, inputs, options_, beam_, results);
    if (exit.active()) trace_exits(*loaded, inputs, options_, exit, results);
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
  int run_loss(const LoadedModelOptions& options) {
    const auto loaded = LoadedModel::load(options);
    const std::vector<TensorView> results = trace_loss(*loaded, inputs_);
    write_safetensors(out_, results, {{"model", flags_.model}});
    print_json({{"tensors", results.size()}, {"loss", to_floats(results[0])[0]}});
    return 0;
  }

  ModelFlags flags_;
  std::string inputs_;
  std::string out_;
  TraceOptions options_;
  BeamOptions beam_;
  ExitFlags exit_;
  cli::Option* beams_ = nullptr;
};

}  // namespace

std::unique_ptr<Command> make_trace_command() { return std::make_unique<TraceCommand>(); }

}  // namespace reprise::tools
