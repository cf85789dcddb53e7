#include "tools/plan_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "eval/paired_bootstrap.h"
#include "eval/plan_file.h"
#include "model/scheme_type.h"
#include "tools/interrupt.h"

namespace reprise::tools {
namespace {

constexpr size_t kShownPlans = 5;
constexpr size_t kFewUnits = 10;       // of held-out text, below which an interval is a guess
constexpr double kSaveSeconds = 2;     // between two writes of the figures
constexpr int64_t kAnswerTokens = 32;  // as eval's
constexpr double kSameFigure = 1e-4;   // relative; instruction sets differ by less

// The difference in perplexity that nats per token are: "0.84% lower".
std::string percent(double nats) {
  return fmt::format("{:.2f}% {}", 100 * std::abs(std::expm1(nats)),
                     nats <= 0 ? "lower" : "higher");
}

int64_t predictions(const std::vector<JudgedPrompt>& units) {
  return std::accumulate(
      units.begin(), units.end(), int64_t{0},
      [](int64_t sum, const JudgedPrompt& one) { return sum + one.predictions(); });
}

// A search from its files to its report.
class SearchRun {
 public:
  SearchRun(LoadedModel& loaded, PlanMaterial material, const std::string& out)
      : loaded_(loaded),
        blocks_(loaded.config().text.layers),
        material_(std::move(material)),
        out_(out),
        scorer_(loaded.model()),
        progress_("plans") {
    const LoadedModelOptions& options = loaded.options();
    file_.inputs = material_.inputs;
    file_.inputs["blocks"] = blocks_;
    file_.inputs["activations"] = options.compute.activations == Activations::F32 ? "f32" : "int8";
    file_.inputs["kv"] = options.load.kv_type == DType::F16 ? "f16" : "f32";
    if (!out.empty()) file_.load(out, material_.calibration.size(), material_.held_out.size());
  }

  // nullopt: interrupted, the figures so far are kept.
  std::optional<Json> run(int budget, int keep, const std::vector<std::string>& tried,
                          const PictureOptions& picture) {
    check_known();
    PlanSearch search;
    search.blocks = blocks_;
    search.keep = keep;
    search.budget = budget;
    search.tried = tried;
    for (const JudgedPrompt& one : material_.calibration)
      search.tokens.push_back(one.predictions());
    search.measure = [&](size_t unit, const std::vector<std::string>& plans) {
      keep_figures(kSaveSeconds);
      return nats(material_.calibration[unit], plans);
    };
    search.progress = [&](const PlanSearchProgress& now) {
      looked_at_ = now.plans;
      progress_.update(
          now.plans, budget,
          fmt::format(
              "round {}, {} of {} {}{}", now.round, now.unit + 1, now.units, material_.unit,
              now.best.empty() ? "" : fmt::format("; {}: {}", now.best, percent(-now.gain))));
    };
    result_ = search_plans(search, file_.calibration);
    keep_figures(0);
    if (result_.stopped) return std::nullopt;
    const RankedPlan& best = result_.ranked.front();
    if (!measure_held_out({result_.plain, best.plan})) return std::nullopt;
    Json report = make_report(best);
    if (!material_.held_out_questions.empty() && !add_exact_match(report, best.plan, picture))
      return std::nullopt;
    progress_.clear();
    file_.result = report;
    keep_figures(0);
    return report;
  }

  int looked_at() const { return looked_at_; }
  void clear_progress() { progress_.clear(); }

 private:
  std::vector<double> nats(const JudgedPrompt& judged,
                           const std::vector<std::string>& plans) const {
    std::vector<Plan> parsed;
    for (const std::string& plan : plans) parsed.push_back(parse_plan(plan, blocks_, "plan"));
    return scorer_.nll(judged, parsed, [&] { return interrupt_.flag().load(); });
  }

  // Figures of a file are of this model: seen by one of them.
  void check_known() const {
    for (const auto& [plan, units] : file_.calibration)
      for (size_t unit = 0; unit < units.size(); ++unit) {
        if (!std::isfinite(units[unit])) continue;
        const std::vector<double> now = nats(material_.calibration[unit], {plan});
        if (!now.empty() && !(std::abs(now[0] - units[unit]) <= kSameFigure * std::abs(now[0])))
          fail(
              "{}: is of a search on another model: plan {} has {:.4f} nats there, {:.4f} here; expected "
              "the same model, or another --out",
              out_, plan, units[unit], now[0]);
        return;
      }
  }

  void keep_figures(double seconds) {
    if (out_.empty() || seconds_since(kept_) < seconds) return;
    file_.save(out_);
    kept_ = Clock::now();
  }

  bool measure_held_out(const std::vector<std::string>& plans) {
    const size_t all = material_.held_out.size();
    for (size_t unit = 0; unit < all; ++unit) {
      progress_.update(static_cast<int64_t>(unit), static_cast<int64_t>(all), "held out");
      std::vector<std::string> missing;
      for (const std::string& plan : plans) {
        auto& units = file_.held_out[plan];
        units.resize(all, std::nan(""));
        if (std::isnan(units[unit])) missing.push_back(plan);
      }
      if (missing.empty()) continue;
      const std::vector<double> found = nats(material_.held_out[unit], missing);
      if (found.empty()) return false;
      for (size_t i = 0; i < missing.size(); ++i) file_.held_out[missing[i]][unit] = found[i];
      keep_figures(kSaveSeconds);
    }
    return true;
  }

  Json part(const std::vector<JudgedPrompt>& units, PlanFigures& figures,
            const std::string& plan) const {
    std::vector<PairedNll> pairs;
    double plain = 0, other = 0;
    for (size_t i = 0; i < units.size(); ++i) {
      pairs.push_back({figures[result_.plain][i], figures[plan][i], units[i].predictions()});
      plain += pairs.back().a;
      other += pairs.back().b;
    }
    const PairedDifference difference = paired_difference(pairs);
    const auto tokens = static_cast<double>(predictions(units));
    return {{"units", units.size()},
            {"tokens", predictions(units)},
            {"plain_perplexity", std::exp(plain / tokens)},
            {"perplexity", std::exp(other / tokens)},
            {"nats_per_token", difference.mean},
            {"interval", {difference.low, difference.high}},
            {"better", difference.better()}};
  }

  Json make_report(const RankedPlan& best) {
    Json report = {{"plain", result_.plain},
                   {"best", best.plan},
                   {"looked_at", result_.looked_at},
                   {"unit", material_.unit},
                   {"visits", parse_plan(best.plan, blocks_, "plan").visits()},
                   {"blocks", blocks_},
                   {"calibration", part(material_.calibration, file_.calibration, best.plan)},
                   {"held_out", part(material_.held_out, file_.held_out, best.plan)},
                   {"ranked", Json::array()},
                   {"backend", loaded_.backend().description()}};
    report["better"] = best.difference < 0 && report["held_out"]["better"].get<bool>();
    for (size_t i = 0; i < std::min(kShownPlans, result_.ranked.size()); ++i) {
      const RankedPlan& one = result_.ranked[i];
      report["ranked"].push_back({{"plan", one.plan},
                                  {"visits", parse_plan(one.plan, blocks_, "plan").visits()},
                                  {"nats_per_token", one.difference},
                                  {"perplexity", std::exp(result_.plain_nll + one.difference)}});
    }
    return report;
  }

  // Answers generated to the held-out questions by both plans; false: interrupted.
  bool add_exact_match(Json& report, const std::string& best, const PictureOptions& picture) {
    QaOptions options{.generation = {.max_tokens = kAnswerTokens}, .picture = picture};
    options.generation.cancel = &interrupt_.flag();
    const auto total = static_cast<int64_t>(material_.held_out_questions.size());
    Json& held_out = report["held_out"];
    for (const auto& [key, plan] :
         {std::pair{"plain_exact_match", result_.plain}, std::pair{"exact_match", best}}) {
      GeneratorOptions generator;
      generator.plan.set("plan", plan);
      generator.reuse_prefix = true;
      try {
        const QaResult answers = answer_questions(loaded_, generator, material_.held_out_questions,
                                                  options, nullptr, [&](const QaResult& so_far) {
                                                    progress_.update(so_far.total.questions, total,
                                                                     "held-out answers, " + plan);
                                                  });
        held_out[key] = answers.total.rate();
        held_out[std::string(key) + "_interval"] = wilson_interval(answers.total);
      } catch (const Error&) {
        if (interrupted_exit() == 0) throw;
        return false;
      }
    }
    return true;
  }

  LoadedModel& loaded_;
  int blocks_;
  PlanMaterial material_;
  std::string out_;
  PlanScorer scorer_;
  InterruptScope interrupt_;
  Progress progress_;
  PlanFile file_;
  PlanSearchResult result_;
  int looked_at_ = 0;
  Clock::time_point kept_ = Clock::now();
};

void print_report(const Json& report, const std::string& model) {
  const auto& calibration = report["calibration"];
  const auto& held_out = report["held_out"];
  const std::string unit = report["unit"];
  fmt::print("{:<44} {:>10} {:>7}\n", "plan", "perplexity", "visits");
  const auto line = [](const std::string& plan, double perplexity, int visits) {
    fmt::print("{:<44} {:>10.4f} {:>7}\n", plan, perplexity, visits);
  };
  line(report["plain"].get<std::string>() + " (plain)", calibration["plain_perplexity"],
       report["blocks"]);
  for (const Json& one : report["ranked"]) line(one["plan"], one["perplexity"], one["visits"]);
  fmt::print("({} {} to choose by; {} plans were looked at)\n\n",
             calibration["units"].get<size_t>(), unit, report["looked_at"].get<int>());
  const auto show = [](const char* name, const Json& part) {
    fmt::print("  {:<12} perplexity {:.4f} against {:.4f}, {}", name,
               part["perplexity"].get<double>(), part["plain_perplexity"].get<double>(),
               percent(part["nats_per_token"]));
  };
  const std::string best = report["best"];
  fmt::print("{}\n", best);
  show("calibration", calibration);
  fmt::print("\n");
  show("held out", held_out);
  const size_t units = held_out["units"];
  fmt::print("\n  {:<12} 95% interval {} to {}, paired bootstrap over {} {}{}\n", "",
             percent(held_out["interval"][0]), percent(held_out["interval"][1]), units, unit,
             units < kFewUnits ? ": few, so it is rough" : "");
  if (held_out.contains("exact_match"))
    fmt::print("  {:<12} exact match {:.2f}% against {:.2f}%\n", "",
               100 * held_out["exact_match"].get<double>(),
               100 * held_out["plain_exact_match"].get<double>());
  if (report["better"].get<bool>())
    fmt::print(
        "Better than the plain depth on what it wasn't chosen by. To keep it:\n"
        "  reprise plan store {} '{}' NEW\n",
        model, best);
  else if (calibration["nats_per_token"].get<double>() >= 0)
    fmt::print("Nothing is better than the plain depth, not even on what plans were chosen by.\n");
  else if (held_out["interval"][0].get<double>() > 0)
    fmt::print("Worse than the plain depth on what it wasn't chosen by: keep the plain depth.\n");
  else
    fmt::print(
        "Not shown to be better than the plain depth: the interval holds no difference too.\n");
}

}  // namespace

void PlanSearchCommand::setup(cli::App& app) {
  app.description(
      "Looks for a plan that predicts a text, or answers, better than the plain depth does");
  app.footer(
      "Looks at ranges of blocks that are run again for a part of their update, several times for\n"
      "one update, or with their update made larger or smaller: at many plans on a few windows,\n"
      "then at the better half on more. The best one is reported on text that it wasn't chosen by,\n"
      "with a 95% interval (paired bootstrap); often nothing is better, and then that is said.\n"
      "Examples:\n"
      "  reprise plan search model.gguf --text mine.txt\n"
      "  reprise plan search model.gguf --text mine.txt --held-out other.txt --out plans.json\n"
      "  reprise plan search model.gguf --qa questions.jsonl --budget 100 --keep 4");
  flags_.add(app);
  cli::Option* chat_template = flags_.add_chat_template(app);
  auto* what = app.add_option_group("measure");
  cli::Option* text = what->add_option("--text", material_.text, "A text file to choose a plan by");
  text->type_name("FILE");
  cli::Option* qa = what->add_option(
      "--qa", material_.questions,
      "Questions: one {\"question\", \"answer\"}, \"image\" where there is one, a line");
  qa->type_name("FILE.jsonl");
  what->require_option(1);
  chat_template->needs(qa);
  app.add_option("--held-out", material_.held_out,
                 "Another file of the kind to report on (default: the second half of the first)")
      ->type_name("FILE");
  app.add_option("--budget", budget_, "Plans to look at")
      ->check(cli::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--keep", keep_, "So many blocks in front are left as they are")
      ->check(cli::Range(0, 100000))
      ->capture_default_str();
  app.add_option("--try", tried_, "A plan to look at in any case; may be repeated")
      ->type_name("PLAN")
      ->repeatable();
  app.add_option("--ctx", material_.context, "Tokens of one window of the text")
      ->check(cli::Range(int64_t{4}, int64_t{1} << 24))
      ->capture_default_str()
      ->excludes(qa);
  app.add_option("--images", material_.images, "Folder that image names are relative to")
      ->type_name("DIR")
      ->needs(qa);
  app.add_option("--limit", material_.limit, "Only the first N questions of a file; 0: all")
      ->check(cli::Range(int64_t{0}, kMostCount))
      ->needs(qa);
  for (cli::Option* option : add_picture_options(app, material_.picture)) option->needs(qa);
  app.add_option("--out", out_, "Keep all figures in this file, and go on from those in it")
      ->type_name("PLANS.json");
  app.add_flag("--json", json_, "One JSON object instead of text");
}

int PlanSearchCommand::run() {
  if (!out_.empty()) check_output_path(out_, "--out");
  const auto loaded = LoadedModel::load(flags_.options());
  const ModelConfig& config = loaded->config();
  const int blocks = config.text.layers;
  check_own_plan(config, flags_.model);
  if (keep_ >= blocks) fail("--keep {}: the model has {} blocks", keep_, blocks);
  std::vector<std::string> tried;  // in the form in which the search writes plans
  for (const std::string& plan : tried_)
    tried.push_back(plan_summary(parse_plan(plan, blocks, "--try")));
  if (!config.plan.empty())
    tried.push_back(plan_summary(parse_plan(config.plan, blocks, flags_.model)));
  SearchRun search(*loaded, PlanMaterial::read(*loaded, material_), out_);
  const std::optional<Json> report = search.run(budget_, keep_, tried, material_.picture);
  if (!report) {
    search.clear_progress();
    fmt::print(stderr, "reprise: interrupted after {} plans; {}\n", search.looked_at(),
               out_.empty() ? "nothing was kept (--out FILE keeps figures)"
                            : fmt::format("the same command goes on from {}", out_));
    return interrupted_exit();
  }
  if (json_)
    print_json(*report);
  else
    print_report(*report, flags_.model);
  return 0;
}

}  // namespace reprise::tools
