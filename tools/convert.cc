// `reprise convert`: a Hugging Face folder into one GGUF file with everything inside, and back.
#include "convert/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/looped/convert_looped.h"
#include "convert/report.h"
#include "model/scheme_type.h"
#include "tools/commands.h"
#include "tools/conversion.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

class ConvertCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Turns a Hugging Face folder into one GGUF file, and back");
    app.footer(
        "A name that ends in .gguf is written as a GGUF file, another one as a folder. Without\n"
        "--type nothing is lost: the way back gives the same tensors, to the bit, and the same\n"
        "config.json, tokenizer and other small files. A GGUF file of llama.cpp's becomes a folder\n"
        "that transformers loads, quantized weights as F32 or --type. DST is written under another\n"
        "name and renamed when it is complete.\n"
        "Examples:\n"
        "  reprise convert FOLDER model.gguf\n"
        "  reprise convert model.gguf FOLDER-again --shard-size 2GB\n"
        "  reprise convert FOLDER model-bf16.gguf --type bf16\n"
        "  reprise convert DENSE LOOPED " +
        flag() + " --loops 2 --init average --rank 64");
    flags_.add(app);
    app.add_option("--type", flags_.type,
                   "keep, f32, f16, bf16, or for GGUF " + type_options(/*quantized_only=*/true) +
                       " ('reprise quantize' reports what these cost)")
        ->capture_default_str();
    app.add_option("--to", to_, "gguf or folder, whatever the name ends in")
        ->check(cli::IsMember({"gguf", "folder"}));
    app.add_option("--shard-size", shard_, "Most data in one safetensors file")
        ->transform(cli::AsSizeValue(/*kb_is_1000=*/true))
        ->type_name("SIZE")
        ->default_str("5GB");
    add_looping(app);
  }

  int run() override {
    ConvertOptions options = flags_.options();
    if (shard_ == 0 || shard_ > static_cast<uint64_t>(INT64_MAX))
      fail("--shard-size: expected a size above 0, as in 5GB");
    options.shard_bytes = static_cast<int64_t>(shard_);
    if (options.types.delicate && !(options.types.type && is_quantized(*options.types.type)))
      fail("--sensitive {}: says something beside a quantized --type alone ({})", flags_.sensitive,
           type_options(/*quantized_only=*/true));
    const ConversionSource source = open_source(flags_.source, flags_.load_options());
    const bool gguf = to_.empty() ? flags_.target.ends_with(".gguf") : to_ == "gguf";
    if (!looping_asked_)
      for (const cli::Option* option : looping_)
        if (option->count() > 0) fail("{}: needs {}", option->name(), flag());
    if (!gguf) check_folder_types(options.types, flags_.target);
    if (!looping_asked_ && !gguf && to_.empty() && source.model.kind() == ModelSource::Kind::Folder)
      fail("{}: expected a name that ends in .gguf (or --to folder, to write another folder)",
           flags_.target);
    if (!source.unknown.empty())
      fmt::print(stderr, "reprise: note: this program can't run the model, only convert it: {}\n",
                 source.unknown);
    if (looping_asked_) return run_looped(source, gguf, options);
    ConvertResult result;
    const bool done = run_conversion(options, [&](const ConvertOptions& with_progress) {
      result = gguf ? convert_to_gguf(source, flags_.target, with_progress)
                    : convert_to_folder(source, flags_.target, with_progress);
    });
    if (!done) return report_interrupted();
    if (flags_.json) {
      Json report = conversion_report(result, /*tensors=*/false);
      report["target"] = flags_.target;
      report["files"] = result.files;
      report["stored_files"] = Json::array();
      for (const auto& [name, bytes] : source.files) report["stored_files"].push_back(name);
      report["left_out"] = source.left_out;
      report["notes"] = result.notes;
      print_json(report);
      return 0;
    }
    fmt::print("{}: {} tensors, {}\n", flags_.target, result.tensors.size(),
               human_bytes(result.bytes));
    if (options.types.type || !options.types.overrides.empty()) print_conversion(result);
    for (const std::string& note : result.notes) fmt::print("note: {}\n", note);
    for (const std::string& name : source.left_out)
      fmt::print("note: {} is no part of the model as this program knows it and was left out\n",
                 name);
    return 0;
  }

 private:
  // "--" and the name of the scheme whose layers are looped.
  static std::string flag() { return "--" + looping_scheme().name; }

  void add_looping(cli::App& app) {
    app.add_flag(flag(), looping_asked_,
                 "Makes a model of a dense one in which a block of layers is looped: a half or a "
                 "third of its weights, with low-rank adapters per loop where asked for. Of a "
                 "vision-language model its language model");
    const auto keep = [&](cli::Option* option) { looping_.push_back(option); };
    keep(app.add_option("--loops", loop_.loops, "How often the block is run")
             ->check(cli::Range(2, 1000))
             ->capture_default_str());
    keep(app.add_option("--init", start_,
                        "What the block is to begin with: " + loop_start_names() +
                            " (default: stepwise, with adapters average)"));
    keep(app.add_option(
                "--rank", loop_.rank,
                "Rank of every matrix's adapter, one a loop, up to that of the matrix; 0: none")
             ->check(cli::Range(0, 1 << 20))
             ->capture_default_str());
    keep(
        app.add_option(
               "--rank-of", ranks_,
               "MATRIX=R: this rank for q, k, v, o, gate, up or down (qkv and gate_up where the model "
               "stores them fused: one adapter each); once a matrix")
            ->type_name("MATRIX=R")
            ->repeatable());
    keep(app.add_option("--adapters", adapters_,
                        "svd: what the block lacks of each layer, truncated; zero: B = 0; split "
                        "(two loops): each loop gets every other direction of their difference; "
                        "weighted, split-weighted: the same by the layers' outputs on the text of "
                        "--calibrate")
             ->check(cli::IsMember({"svd", "zero", "split", "weighted", "split-weighted"}))
             ->default_str("svd"));
    keep(app.add_option("--calibrate", calibration_.text,
                        "Plain text that the dense model is run on; errors are weighed by what its "
                        "matrices are applied to. For --init fitted and weighted adapters")
             ->type_name("TEXT"));
    keep(app.add_option("--calibrate-tokens", calibration_.tokens,
                        "So many tokens of it, in windows of 512 from all over the text")
             ->check(cli::Range(int64_t{1}, int64_t{1} << 24))
             ->capture_default_str());
    keep(
        app.add_option("--refit-tokens", loop_.refit_tokens,
                       "--init fitted: so many of these tokens are run through the converted model "
                       "too, to fit its adapters to the inputs that they get there; 0: none")
            ->check(cli::Range(int64_t{0}, int64_t{1} << 24))
            ->capture_default_str());
    keep(app.add_flag("--fold-norms", loop_.fold_norms,
                      "Multiplies norm weights into the matrices behind them first"));
    keep(app.add_option("--keep-first", loop_.keep_first, "First layers that stay out of the loops")
             ->check(cli::Range(0, 100000))
             ->capture_default_str());
    keep(app.add_option("--keep-last", loop_.keep_last, "Last layers that stay out of the loops")
             ->check(cli::Range(0, 100000))
             ->capture_default_str());
    keep(app.add_option("--seed", loop_.seed, "Of new weights and of adapters that begin at zero")
             ->check(cli::Range(int64_t{0}, INT64_MAX))
             ->capture_default_str());
    keep(app.add_option("--layers-out", layers_out_,
                        "JSON file that says which layers went into which block")
             ->type_name("FILE.json"));
  }

  LoopOptions loop_options() {
    LoopOptions loop = loop_;
    for (const std::string& text : ranks_) {
      const size_t equals = text.find('=');
      const std::string number = equals == std::string::npos ? "" : text.substr(equals + 1);
      if (number.empty() || number.size() > 7 ||
          number.find_first_not_of("0123456789") != std::string::npos)
        fail("--rank-of {}: expected MATRIX=R with a number R, as in q=96", text);
      const auto [it, added] = loop.rank_of.emplace(text.substr(0, equals), std::stoll(number));
      if (!added)
        fail("--rank-of {}: {} has a rank already, {}; expected one a matrix", text, it->first,
             it->second);
    }
    const bool adapters = loop.rank > 0 || std::ranges::any_of(loop.rank_of, [](const auto& entry) {
                            return entry.second > 0;
                          });
    if (!adapters && !adapters_.empty())
      fail("--adapters {}: needs adapters, expected --rank or --rank-of above 0", adapters_);
    if (start_ == loop_start_name(LoopStart::Fitted) && !adapters_.empty())
      fail("--adapters {}: --init {} fits adapters itself, leave it out", adapters_, start_);
    if (!calibration_.text.empty()) loop.calibrate = calibration_;
    if (start_.empty()) start_ = adapters ? "average" : "stepwise";
    loop.start = parse_loop_start(start_, "--init");
    loop.adapters = adapters_ == "zero"             ? LoopAdapters::Zero
                    : adapters_ == "split"          ? LoopAdapters::Split
                    : adapters_ == "weighted"       ? LoopAdapters::Weighted
                    : adapters_ == "split-weighted" ? LoopAdapters::SplitWeighted
                                                    : LoopAdapters::Svd;
    return loop;
  }

  // It must not replace what is read or written here.
  void check_layers_out() const {
    namespace fs = std::filesystem;
    const fs::path out = fs::weakly_canonical(layers_out_);
    for (const std::string& model : {flags_.source, flags_.target}) {
      const fs::path path = fs::weakly_canonical(model);
      const auto inside = std::mismatch(path.begin(), path.end(), out.begin(), out.end()).first;
      if (inside == path.end())
        fail("--layers-out {}: is {} or lies in it; expected a file of its own", layers_out_,
             model);
    }
    if (fs::exists(out) && !flags_.force)
      fail("--layers-out {}: exists already (--force replaces it)", layers_out_);
    check_output_path(layers_out_, "--layers-out");
  }

  int run_looped(const ConversionSource& source, bool gguf, const ConvertOptions& options) {
    const LoopOptions loop = loop_options();
    if (!layers_out_.empty()) check_layers_out();
    LoopedResult looped;
    const bool done = run_conversion(
        options,
        [&](const ConvertOptions& with_progress) {
          looped = convert_looped(source, flags_.target, gguf, loop, with_progress);
        },
        /*unit=*/"matrices");
    if (!done) return report_interrupted();
    if (!layers_out_.empty())
      write_file_atomically(layers_out_, loop_layout_json(looped.layout).dump() + "\n");
    if (flags_.json) {
      Json report = conversion_report(looped.result, /*tensors=*/false);
      report.update(looped_report(looped));
      report["target"] = flags_.target;
      report["files"] = looped.result.files;
      print_json(report);
      return 0;
    }
    print_looped(looped);
    return 0;
  }

  void print_looped(const LoopedResult& looped) const {
    const LoopLayout& layout = looped.layout;
    fmt::print("{}: {} layers, {} of them looped {} times{}\n", flags_.target, layout.layers(),
               layout.blocks, layout.loops,
               layout.first + layout.last > 0
                   ? fmt::format(", {} first and {} last ones kept", layout.first, layout.last)
                   : "");
    fmt::print(
        "weights: {} in {} before, {} in {} now ({:.0f}% of the weights)\n",
        human_count(looped.dense_weights), human_bytes(looped.dense_bytes),
        human_count(looped.weights()), human_bytes(looped.result.bytes),
        100.0 * static_cast<double>(looped.weights()) / static_cast<double>(looped.dense_weights));
    for (size_t k = 0; k < layout.sources.size(); ++k) {
      std::vector<int> from, tied;
      for (const int layer : layout.sources[k]) from.push_back(layer + 1);
      for (int loop = 0; loop < layout.loops; ++loop)
        tied.push_back(layout.tied(loop, static_cast<int>(k)) + 1);
      fmt::print("  block {:<3} from {:<24} for layers {}\n", k + 1,
                 from.empty()       ? "nothing"
                 : from.size() == 1 ? fmt::format("layer {}", from[0])
                                    : fmt::format("the mean of {}", fmt::join(from, ", ")),
                 fmt::join(tied, ", "));
    }
    const bool calibrated = looped.calibration_tokens > 0;
    if (calibrated)
      fmt::print(
          "calibrated on {} tokens{}\n", looped.calibration_tokens,
          looped.refit_tokens > 0
              ? fmt::format(", refitted on {}; the figures are those before", looped.refit_tokens)
              : "");
    if (!looped.adapters.empty()) {
      // By matrix, over all blocks and loops: root of the sum of squares.
      std::map<std::string, std::array<double, 5>> sums;
      std::vector<std::string> order;
      for (const AdapterReport& adapter : looped.adapters) {
        if (!sums.contains(adapter.matrix)) order.push_back(adapter.matrix);
        auto& sum = sums[adapter.matrix];
        sum[0] += adapter.weight * adapter.weight;
        sum[1] += adapter.residual * adapter.residual;
        sum[2] += adapter.missing * adapter.missing;
        sum[3] += adapter.weighted_missing * adapter.weighted_missing;
        ++sum[4];
      }
      fmt::print("{:<10}{:>8}{:>14}{:>14}{:>18}{}\n", "matrix", "rank", "norm", "residual",
                 "after adapters", calibrated ? "     of outputs" : "");
      for (const std::string& matrix : order) {
        const auto& sum = sums[matrix];
        fmt::print("{:<10}{:>8}{:>14.4g}{:>14.4g}{:>10.4g} ({:.1f}%){}\n", matrix,
                   looped.shape.ranks.at(matrix), std::sqrt(sum[0]), std::sqrt(sum[1]),
                   std::sqrt(sum[2]), sum[0] > 0 ? 100 * std::sqrt(sum[2] / sum[0]) : 0.0,
                   calibrated ? fmt::format("{:>14.1f}%", 100 * std::sqrt(sum[3] / sum[4])) : "");
      }
    }
    for (const auto& [matrix, asked] : looped.capped)
      fmt::print("note: adapters of {} have rank {} instead of {}, that of the matrix\n", matrix,
                 looped.shape.ranks.at(matrix), asked);
    for (const auto& [role, count] : looped.dropped)
      fmt::print("note: left out: {} tensors of {}\n", count, role);
    for (const std::string& note : conversion_notes(looped.result)) fmt::print("note: {}\n", note);
  }

  ConversionFlags flags_;
  std::string to_;
  uint64_t shard_ = 5'000'000'000;
  bool looping_asked_ = false;
  std::vector<cli::Option*> looping_;  // options that need it
  LoopOptions loop_;
  CalibrationOptions calibration_;
  std::string start_, adapters_, layers_out_;
  std::vector<std::string> ranks_;
};

}  // namespace

std::unique_ptr<Command> make_convert_command() { return std::make_unique<ConvertCommand>(); }

}  // namespace reprise::tools
