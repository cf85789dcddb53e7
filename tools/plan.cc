// `reprise plan`: a plan looked for on a text or on questions, and one kept in a model.
#include <fmt/format.h>

#include "convert/store_plan.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/plan_search.h"

namespace reprise::tools {
namespace {

class PlanCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description(
        "Looks for an order of layers that is better than the plain depth, or keeps one in a model");
    app.footer(
        "Examples:\n"
        "  reprise plan search model.gguf --text mine.txt --budget 100 --out plans.json\n"
        "  reprise plan store model.gguf 0-14,10-14@0.1,15-29 replayed.gguf\n"
        "'reprise plan search --help' and 'reprise plan store --help' list their options.");
    app.require_subcommand();
    search_app_ = app.add_subcommand("search");
    search_.setup(*search_app_);
    store_app_ = app.add_subcommand("store");
    store_app_->description("Keeps a plan in a model: that of all requests that name none");
    store_app_->footer(
        "A GGUF file, of this program's or of llama.cpp's, becomes a new GGUF file; a folder a new\n"
        "folder, or with its own name as TARGET it is changed in place. --plan of other commands\n"
        "overrides a stored plan; 'none' as PLAN takes it away.\n"
        "Examples:\n"
        "  reprise plan store model.gguf 0-14,10-14@0.1,15-29 replayed.gguf\n"
        "  reprise plan store replayed.gguf none plain.gguf");
    store_app_->add_option("model", model_, "Hugging Face folder or GGUF file")
        ->type_name("MODEL")
        ->required();
    store_app_->add_option("plan", plan_, "Order of blocks (docs/plans.md), or none")
        ->type_name("PLAN")
        ->required();
    store_app_->add_option("target", target_, "Where the model with the plan goes")
        ->type_name("TARGET")
        ->required();
  }

  int run() override {
    if (search_app_->parsed()) return search_.run();
    const bool none = plan_ == "none";
    if (!none && plan_.empty())
      fail("plan '': expected an order of blocks such as 0-14,10-14@0.1,15-29, or none");
    store_plan(model_, none ? "" : plan_, target_);
    fmt::print("{}: {}\n", target_, none ? "without a stored plan" : "plan " + plan_);
    return 0;
  }

 private:
  PlanSearchCommand search_;
  cli::App* search_app_ = nullptr;
  cli::App* store_app_ = nullptr;
  std::string model_, plan_, target_;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace reprise::tools
