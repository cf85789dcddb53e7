// `reprise convert`: a Hugging Face folder into one GGUF file with everything inside, and back.
#include "convert/convert.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "convert/report.h"
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
        "config.json, tokenizer and other small files. DST is written under another name and\n"
        "renamed when it is complete.\n"
        "Examples:\n"
        "  reprise convert FOLDER model.gguf\n"
        "  reprise convert model.gguf FOLDER-again --shard-size 2GB\n"
        "  reprise convert FOLDER model-bf16.gguf --type bf16");
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
  }

  int run() override {
    ConvertOptions options = flags_.options();
    if (shard_ == 0 || shard_ > static_cast<uint64_t>(INT64_MAX))
      fail("--shard-size: expected a size above 0, as in 5GB");
    options.shard_bytes = static_cast<int64_t>(shard_);
    const ConversionSource source = open_source(flags_.source, flags_.load_options());
    const bool gguf = to_.empty() ? flags_.target.ends_with(".gguf") : to_ == "gguf";
    if (!gguf && to_.empty() && source.model.kind() == ModelSource::Kind::Folder)
      fail("{}: expected a name that ends in .gguf (or --to folder, to write another folder)",
           flags_.target);
    if (!source.unknown.empty())
      fmt::print(stderr, "reprise: note: this program can't run the model, only convert it: {}\n",
                 source.unknown);
    ConvertResult result;
    const bool done = run_conversion(options, [&](const ConvertOptions& with_progress) {
      result = gguf ? convert_to_gguf(source, flags_.target, with_progress)
                    : convert_to_folder(source, flags_.target, with_progress);
    });
    if (!done) {
      fmt::print(stderr, "reprise: interrupted; nothing was written\n");
      return kInterrupted;
    }
    if (flags_.json) {
      Json report = conversion_report(result, /*tensors=*/false);
      report["target"] = flags_.target;
      report["files"] = result.files;
      report["stored_files"] = Json::array();
      for (const auto& [name, bytes] : source.files) report["stored_files"].push_back(name);
      report["left_out"] = source.left_out;
      print_json(report);
      return 0;
    }
    fmt::print("{}: {} tensors, {}\n", flags_.target, result.tensors.size(),
               human_bytes(result.bytes));
    if (options.types.type || !options.types.overrides.empty()) print_conversion(result);
    for (const std::string& name : source.left_out)
      fmt::print("note: {} is no part of the model as this program knows it and was left out\n",
                 name);
    return 0;
  }

 private:
  ConversionFlags flags_;
  std::string to_;
  uint64_t shard_ = 5'000'000'000;
};

}  // namespace

std::unique_ptr<Command> make_convert_command() { return std::make_unique<ConvertCommand>(); }

}  // namespace reprise::tools
