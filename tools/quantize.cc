// `reprise quantize`: a smaller GGUF file, and what it costs: the error of each kind of tensor, the
// KL divergence of the logits, the perplexity.
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/report.h"
#include "eval/compare.h"
#include "text/tokenizer/tokenizer_files.h"
#include "tools/commands.h"
#include "tools/conversion.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

class QuantizeCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description(
        "Writes a model as a GGUF file with fewer bits a weight, and measures the loss");
    app.footer(
        "Attention and MLP matrices of the language model get the type asked for; embedding, head\n"
        "and low-rank adapters Q8_0; vision tower, projector, gates and matrices of a scheme's own\n"
        "stay as they are (--sensitive), norms and biases too. With --text or --inputs both\n"
        "models are run and compared.\n"
        "Examples:\n"
        "  reprise quantize MODEL q8.gguf --type q8_0 --text wiki.txt\n"
        "  reprise quantize model.gguf small.gguf --type q4_0 --keep '*.down_proj.weight=q8_0'\n"
        "  reprise quantize MODEL q4.gguf --type q4_0 --inputs case.safetensors --report q4.json");
    flags_.add(app);
    flags_.type.clear();
    app.add_option("--type", flags_.type, type_options(/*quantized_only=*/true))->required();
    auto* text =
        app.add_option("--text", text_, "Compare both models on this text")->type_name("FILE");
    app.add_option("--inputs", inputs_,
                   "Compare on token ids (and pixels) from a safetensors file, as for trace")
        ->type_name("IN")
        ->excludes(text);
    app.add_option("--ctx", context_, "Tokens of one window of the text")
        ->check(cli::Range(int64_t{4}, int64_t{1} << 24))
        ->capture_default_str();
    app.add_option("--activations", activations_,
                   "Of the quantized model in the comparison; f32: the weights' error alone")
        ->check(cli::IsMember({"f32", "int8"}))
        ->capture_default_str();
    app.add_option("--report", report_, "Write all figures, tensor by tensor, to this file")
        ->type_name("FILE.json");
  }

  int run() override {
    const ConvertOptions options = flags_.options();
    if (!options.types.type || !is_quantized(*options.types.type))
      fail("--type {}: expected one of {} ('reprise convert' writes other types)", flags_.type,
           type_options(/*quantized_only=*/true));
    if (options.types.delicate && is_quantized(*options.types.delicate))
      fail(
          "--sensitive {}: expected keep, f32, f16 or bf16 (--keep PATTERN=TYPE quantizes single "
          "tensors)",
          flags_.sensitive);
    // What is needed only at the end is tried before the work.
    if (!text_.empty()) read_file(text_);
    if (!report_.empty()) check_output_path(report_, "--report");
    std::optional<TokenInputs> inputs;
    if (!inputs_.empty()) inputs = read_token_inputs(inputs_);
    const ConversionSource source = open_source(flags_.source, flags_.load_options());
    if (!source.config) fail("{}", source.unknown);
    if (!text_.empty()) tokenizer_from_model(flags_.source);
    if (const int64_t limit = context_limit(source.config->text); limit > 0) {
      if (!text_.empty() && context_ > limit)
        fail("--ctx {}: the context of {} is {}", context_, flags_.source, limit);
      if (inputs && std::ssize(inputs->ids) > limit)
        fail("--inputs {}: has {} tokens, the context of {} is {}", inputs_, inputs->ids.size(),
             flags_.source, limit);
    }
    ConvertResult result;
    const bool done = run_conversion(options, [&](const ConvertOptions& with_progress) {
      result = convert_to_gguf(source, flags_.target, with_progress);
    });
    if (!done) return report_interrupted();
    Json report = conversion_report(result, /*tensors=*/!report_.empty());
    report["source"] = flags_.source;
    report["target"] = flags_.target;
    report["type"] = type_name(options.types);
    if (!flags_.json) {
      print_conversion(result);
      fmt::print("{}: {} of {}, {:.2f} bits a weight\n", flags_.target, human_bytes(result.bytes),
                 human_bytes(result.source_bytes), report["bits_per_weight"].get<double>());
    }
    if (!text_.empty() || inputs) report["comparison"] = compare(inputs);
    if (!report_.empty()) write_file_atomically(report_, report.dump(1) + "\n");
    if (flags_.json) {
      report.erase("tensors");
      print_json(report);
    }
    return 0;
  }

 private:
  Json compare(const std::optional<TokenInputs>& inputs) const {
    LoadedModelOptions exact, quantized;
    exact.model = flags_.source;
    exact.compute.threads = quantized.compute.threads = flags_.threads;
    exact.load = flags_.load_options();
    exact.compute.activations = Activations::F32;
    quantized.model = flags_.target;
    quantized.compute.activations = activations_ == "f32" ? Activations::F32 : Activations::Int8;
    const auto reference = LoadedModel::load(exact);
    const auto model = LoadedModel::load(quantized);
    Comparison comparison;
    if (inputs) {
      comparison = compare_on_inputs(*reference, *model, *inputs);
    } else {
      std::string text = read_file(text_);
      if (text.ends_with('\n')) text.pop_back();  // as `reprise eval` reads it
      std::vector<int32_t> tokens = reference->tokenizer().encode(text, {.parse_special = false});
      if (const auto bos = reference->added_bos()) tokens.insert(tokens.begin(), *bos);
      Progress progress("windows");
      comparison =
          compare_on_text(*reference, *model, tokens, context_,
                          [&](int64_t done, int64_t total) { progress.update(done, total, ""); });
    }
    if (!flags_.json) {
      fmt::print(
          "KL divergence of the logits to the source's: mean {:.3e}, largest {:.3e} "
          "({} positions, {} activations)\n",
          comparison.kl_mean, comparison.kl_max, comparison.positions, activations_);
      fmt::print("same likeliest token: {:.2f}%\n", 100 * comparison.same_top);
      if (comparison.predictions > 0)
        fmt::print("perplexity: {:.4f}, the source's {:.4f} ({} predictions)\n",
                   comparison.perplexity, comparison.reference_perplexity, comparison.predictions);
    }
    Json json = {{"kl_divergence", comparison.kl_mean},
                 {"kl_max", comparison.kl_max},
                 {"same_top", comparison.same_top},
                 {"largest_logit_difference", comparison.largest_logit},
                 {"positions", comparison.positions},
                 {"predictions", comparison.predictions},
                 {"activations", activations_}};
    if (comparison.predictions > 0) {
      json["perplexity"] = comparison.perplexity;
      json["source_perplexity"] = comparison.reference_perplexity;
    }
    return json;
  }

  ConversionFlags flags_;
  std::string text_, inputs_, report_;
  std::string activations_ = "f32";
  int64_t context_ = 512;
};

}  // namespace

std::unique_ptr<Command> make_quantize_command() { return std::make_unique<QuantizeCommand>(); }

}  // namespace reprise::tools
