#include "tools/calibrate_exit.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "convert/store_key.h"
#include "eval/exit_calibration.h"
#include "eval/qa.h"
#include "tools/exit_options.h"

namespace reprise::tools {
namespace {

// What a table shows besides the share that was asked for.
constexpr double kShownAgreements[] = {0.99, 0.98, 0.95, 0.9, 0.8};

std::pair<double, double> interval(const ExitFigures& figures) {
  return wilson_interval({.correct = figures.agreeing, .questions = figures.positions});
}

Json to_json(const ExitFigures& figures) {
  const auto [low, high] = interval(figures);
  return {{"positions", figures.positions},
          {"agreeing", figures.agreeing},
          {"agreement", figures.agreement()},
          {"interval", {low, high}},
          {"mean_depth", figures.mean_depth}};
}

struct TableRow {
  double wanted = 0;  // share of tokens; 0: a depth
  ExitFigures calibration, held_out;
};

std::vector<TableRow> make_table(const ExitSamples& samples, const ExitSamples& held_out) {
  std::vector<TableRow> table;
  const auto add = [&](double wanted, double threshold) {
    table.push_back(
        {wanted, judge_threshold(samples, threshold), judge_threshold(held_out, threshold)});
  };
  if (samples.kind == ExitKind::Depth) {
    for (int loops = samples.loops; loops > 0; --loops) add(0, loops);
    return table;
  }
  for (const double wanted : kShownAgreements)
    if (const auto found = choose_threshold(samples, wanted)) add(wanted, found->threshold);
  return table;
}

}  // namespace

void ExitCalibration::add(cli::App& app, cli::App& measure) {
  cli::Option* text = measure.add_option(
      "--calibrate-exit", text_,
      "A text file: find the threshold at which tokens may leave a looped model early");
  text->type_name("FILE");
  rule_ =
      app.add_option_function(
             "--exit", [this](const std::string& kind) { kind_ = parse_exit_kind(kind); },
             "Which rule to calibrate")
          ->check(cli::IsMember({"confidence", "entropy", "similarity", "gate", "depth", "cdf"}))
          ->default_str("confidence")
          ->needs(text);
  app.add_option("--agreement", agreement_,
                 "Least share of tokens that must be those of the full depth")
      ->capture_default_str()
      ->needs(text);
  add_exit_kv_option(app, kv_)->needs(text);
  app.add_option("--held-out", held_out_,
                 "A text file to judge the threshold on (default: the second half of the first)")
      ->type_name("FILE")
      ->needs(text);
  app.add_flag(
         "--store", store_,
         "Keep the rule in the model folder's config.json, for 'run', in place of one that is "
         "there (a GGUF file: --store-as)")
      ->needs(text);
  app.add_option("--store-as", store_as_,
                 "Keep it in a new GGUF file, with all that is in MODEL; for a model that is one")
      ->type_name("OUT.gguf")
      ->needs(text);
}

int ExitCalibration::run(const ModelFlags& flags, const PlanOptions& plan_options, int64_t ctx,
                         bool json) const {
  if (!(agreement_ > 0 && agreement_ <= 1))
    fail("--agreement: expected a share above 0, up to 1, found {}", agreement_);
  const bool store = store_ || !store_as_.empty();
  if (store) check_store(flags.model, store_as_);
  const auto loaded = LoadedModel::load(flags.options());
  Model& model = loaded->model();
  if (const std::string flag = given_exit_option(model, plan_options); !flag.empty())
    fail("{}: --calibrate-exit looks for the rule itself", flag);
  const Plan plan = model.decode_plan(plan_options);
  const std::string asked =
      rule_->count() > 0 ? "--exit " + exit_kind_name(kind_) : "--calibrate-exit";
  if (const std::string problem = model.exit_problem({kind_, 1}, plan); !problem.empty())
    fail("{}: {}", asked, problem);
  const int64_t limit = loaded->context_limit();
  if (limit > 0 && ctx > limit) fail("--ctx {}: the model's context is {}", ctx, limit);

  std::vector<int32_t> tokens = loaded->text_tokens(read_file(text_)), other;
  if (held_out_.empty()) {
    const int64_t windows = std::ssize(tokens) / ctx;
    if (windows < 2)
      fail(
          "{}: has {} tokens; expected two windows of {} (--ctx), one of them to judge by, or "
          "another text to judge by (--held-out)",
          text_, tokens.size(), ctx);
    const auto half = tokens.begin() + (windows - windows / 2) * ctx;
    other.assign(half, tokens.end());
    tokens.erase(half, tokens.end());
  } else {
    other = loaded->text_tokens(read_file(held_out_));
    for (const auto& [option, path, text] : {std::tuple{"--calibrate-exit", &text_, &tokens},
                                             std::tuple{"--held-out", &held_out_, &other}})
      if (std::ssize(*text) < ctx)
        fail("{} {}: has {} tokens, expected at least one window of {} (--ctx)", option, *path,
             text->size(), ctx);
  }
  const ExitKv kv = kv_.value_or(ExitKv::Exact);
  Progress progress("exits");
  const auto show = [&](const char* what) {
    return [&progress, what](int64_t done, int64_t all) { progress.update(done, all, what); };
  };
  const ExitText text = {tokens, ctx, loaded->added_bos()}, held_out_text = {other, ctx, text.bos};
  const ExitSamples samples = sample_exits(model, plan, kind_, text, show("calibration"));
  const ExitSamples held_out = sample_exits(model, plan, kind_, held_out_text, show("held out"));
  const auto found = choose_threshold_for(model, plan, kv, text, samples, agreement_,
                                          show("calibration by the rule"));
  ExitFigures held;
  if (found && kv == ExitKv::Exact)
    held = judge_threshold(held_out, found->threshold);
  else if (found)
    held = decode_by_rule(model, plan, {kind_, found->threshold, kv}, held_out_text, held_out.full,
                          show("held out by the rule"));
  progress.clear();
  const std::vector<TableRow> table = make_table(samples, held_out);

  std::string stored;
  if (found && store) {
    const ExitConfig exit = {kind_, found->threshold, kv};
    store_key(flags.model, store_as_, "exit", exit_config_to_json(exit));
    stored = store_as_.empty() ? flags.model : store_as_;
  }
  if (json) {
    Json report = {{"agreement_wanted", agreement_},
                   {"loops", samples.loops},
                   {"ctx", ctx},
                   {"exit", Json()},
                   {"stored", stored.empty() ? Json() : Json(stored)},
                   {"table", Json::array()},
                   {"backend", loaded->backend().description()}};
    if (found) {
      report["exit"] = exit_config_to_json({kind_, found->threshold, kv});
      report["calibration"] = to_json(*found);
      report["held_out"] = to_json(held);
    }
    for (const TableRow& row : table)
      report["table"].push_back({{"threshold", row.calibration.threshold},
                                 {"calibration", to_json(row.calibration)},
                                 {"held_out", to_json(row.held_out)}});
    print_json(report);
  } else {
    if (found) {
      const auto [low, high] = interval(held);
      fmt::print("{} (KV {})\n", exit_text({kind_, found->threshold, kv}), exit_kv_name(kv));
      fmt::print("  calibration: {:.2f}% of {} tokens as at full depth, mean depth {:.2f} of {}\n",
                 100 * found->agreement(), found->positions, found->mean_depth, samples.loops);
      fmt::print(
          "  held out:    {:.2f}% of {} tokens (95% interval {:.2f}% to {:.2f}%, Wilson), mean "
          "depth {:.2f}\n",
          100 * held.agreement(), held.positions, 100 * low, 100 * high, held.mean_depth);
      if (!stored.empty()) fmt::print("  stored in {}\n", stored);
    } else {
      fmt::print("no threshold of {} lets tokens leave early and keeps {:.2f}% of them\n",
                 exit_kind_name(kind_), 100 * agreement_);
    }
    if (kv != ExitKv::Exact) fmt::print("with the full depth's KV (exact):\n");
    fmt::print("{:>12} {:>14} {:>8} {:>14} {:>8}\n", "threshold", "calibration %", "depth",
               "held out %", "depth");
    for (const TableRow& row : table)
      fmt::print("{:>12} {:>14.2f} {:>8.2f} {:>14.2f} {:>8.2f}\n", row.calibration.threshold,
                 100 * row.calibration.agreement(), row.calibration.mean_depth,
                 100 * row.held_out.agreement(), row.held_out.mean_depth);
  }
  if (!found && store)
    fail("{}: nothing was stored: no threshold keeps {:.2f}% of the tokens", flags.model,
         100 * agreement_);
  return 0;
}

}  // namespace reprise::tools
