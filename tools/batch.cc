// `reprise batch`: answers the requests of a file, many at a time.
#include "api/batch.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/interrupt.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

// How often the progress bar is drawn, in seconds.
constexpr double kBetweenDrawings = 0.2;

class BatchCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Answers the requests of a file, many at a time");
    app.footer(
        "IN.jsonl holds a request a line, as OpenAI's batch files do:\n"
        "  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",\n"
        "   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Why?\"}], \"max_tokens\": 50}}\n"
        "OUT.jsonl gets an answer a line as requests end. A batch that was stopped goes on when it is\n"
        "started again with the same files: requests that have an answer there are left out.\n"
        "docs/batch.md lists what a body may hold.\n"
        "Examples:\n"
        "  reprise batch model.gguf questions.jsonl answers.jsonl --max-tokens 200\n"
        "  reprise batch looped-model questions.jsonl answers.jsonl --exit confidence:0.9\n"
        "  reprise batch model.gguf in.jsonl out.jsonl --kv f16 --kv-budget 4GB --running 128");
    flags_.add(app);
    app.add_option("IN.jsonl", in_, "Requests, one a line")->type_name("FILE")->required();
    app.add_option("OUT.jsonl", out_, "Answers, one a line; goes on with what is there")
        ->type_name("FILE")
        ->required();
    flags_.add_chat_template(app);
    add_plan_options(app, batch_.plan);
    add_scheduling(app);
    SamplerOptions& sampler = batch_.defaults.sampler;
    app.add_option("--ctx", context_,
                   "Most tokens of a request, prompt and answer; 0: what the model's context has")
        ->check(cli::Range(int64_t{0}, kMostCount))
        ->capture_default_str();
    app.add_option("--max-tokens", batch_.defaults.max_tokens,
                   "Most tokens to generate where a request doesn't say; 0: until the model stops")
        ->check(cli::Range(int64_t{0}, kMostCount))
        ->capture_default_str();
    app.add_option("--temperature", sampler.temperature,
                   "Where a request doesn't say; 0: always the most likely token")
        ->capture_default_str();
    app.add_option("--top-p", sampler.top_p,
                   "Where a request doesn't say: choose among the fewest tokens that reach P")
        ->capture_default_str();
    app.add_option("--seed", sampler.seed,
                   "Seed of the random choices of requests that have none; with the custom_id")
        ->capture_default_str()
        ->check(cli::NonNegativeNumber());
    exit_.add(app, kRunDefaults);
    add_picture_options(app, batch_.picture);
    app.add_flag("--json", json_, "Figures as a JSON object on stdout");
    app.add_flag("--quiet", quiet_, "No figures and no progress on stderr");
  }

  int run() override {
    batch_.defaults.check();
    batch_.scheduler.schedule = parse_schedule(schedule_);
    if (kv_budget_ > static_cast<uint64_t>(INT64_MAX))
      fail("--kv-budget: expected a size below 8 EB, as in 4GB");
    batch_.scheduler.admission.kv_budget = static_cast<int64_t>(kv_budget_);
    if (prefix_cache_ > static_cast<uint64_t>(INT64_MAX))
      fail("--prefix-cache: expected a size below 8 EB, as in 512MB");
    batch_.scheduler.prefixes.bytes = static_cast<int64_t>(prefix_cache_);
    std::error_code none;
    if (std::filesystem::equivalent(in_, out_, none))
      fail("{}: is both input and output, expected two files", in_.string());
    LineReader{in_};  // what is wrong with it is said before a model is loaded
    check_output_path(out_, "OUT.jsonl");

    const auto loaded = LoadedModel::load(flags_.options());
    loaded->tokenizer();  // a model without one answers nobody
    const int64_t limit = loaded->context_limit();
    if (limit > 0 && context_ > limit) fail("--ctx {}: the model's context is {}", context_, limit);
    batch_.defaults.context_tokens = context_;
    batch_.plans = make_plans(loaded->model(), batch_.plan);
    batch_.defaults.exit = exit_.resolve(loaded->model(), batch_.plans->decode, batch_.plan);
    std::filesystem::path model = flags_.model;
    if (!model.has_filename()) model = model.parent_path();
    batch_.model_name = model.filename().string();
    BatchJob batch(*loaded, batch_, in_, out_);
    {
      const InterruptScope interrupt;
      Progress progress("requests");
      double drawn = -kBetweenDrawings;
      BatchFigures last;
      batch.run(interrupt.flag(), [&](const BatchFigures& now) {
        if (quiet_ || now.seconds < drawn + kBetweenDrawings) return;
        progress.update(now.resumed + now.answered, now.requests, note(last, now));
        drawn = now.seconds;
        last = now;
      });
    }
    const BatchFigures& figures = batch.figures();
    if (json_)
      print_json(report(*loaded, figures));
    else if (!quiet_)
      print_figures(*loaded, figures);
    if (figures.left() == 0) return 0;
    fmt::print(
        stderr,
        "[stopped: {} of {} requests have no answer yet; the same command goes on with them]\n",
        figures.left(), figures.requests);
    return interrupted_exit();
  }

 private:
  void add_scheduling(cli::App& app) {
    AdmissionOptions& admission = batch_.scheduler.admission;
    app.add_option("--kv-budget", kv_budget_,
                   "Most memory for keys and values of all requests; 0: no limit")
        ->transform(cli::AsSizeValue(/*kb_is_1000=*/true))
        ->type_name("SIZE")
        ->default_str("0");
    app.add_option("--prefix-cache", prefix_cache_,
                   "Most memory for keys and values of prompts that are kept for those that begin "
                   "the same way, of --kv-budget where there is one; 0: none are")
        ->transform(cli::AsSizeValue(/*kb_is_1000=*/true))
        ->type_name("SIZE")
        ->default_str("512MB");
    app.add_option("--running", admission.most_running, "Most answers under way beside each other")
        ->check(cli::Range(int64_t{1}, kMostCount))
        ->capture_default_str();
    app.add_option("--prompt-rows", batch_.scheduler.prompt_rows,
                   "Most prompt tokens that start in one sweep over the blocks")
        ->check(cli::Range(int64_t{1}, kMostCount))
        ->capture_default_str();
    app.add_option(
           "--schedule", schedule_,
           "When a token may start: when the request's last one is done (depthwise), when all "
           "requests' are (cohort), or when their deeper steps are too (sequence); the "
           "answers are the same")
        ->check(cli::IsMember({"sequence", "cohort", "depthwise"}))
        ->capture_default_str();
  }

  // What has happened since the bar was drawn last. Rows by loop: decode rows of one sweep in each
  // loop, on average.
  static std::string note(const BatchFigures& last, const BatchFigures& now) {
    const double seconds = now.seconds - last.seconds;
    const auto tokens = static_cast<double>(now.generated_tokens - last.generated_tokens);
    std::string text = fmt::format("{:.1f} tokens/s", seconds > 0 ? tokens / seconds : 0);
    const int64_t sweeps = now.scheduler.sweeps - last.scheduler.sweeps;
    if (now.exits.size() < 2 || sweeps == 0) return text;
    std::vector<int64_t> rows(now.exits);
    for (size_t i = 0; i < last.exits.size(); ++i) rows[i] -= last.exits[i];
    for (size_t i = rows.size() - 1; i > 0; --i) rows[i - 1] += rows[i];
    text += ", rows by loop";
    for (const int64_t count : rows)
      text += fmt::format(" {:.1f}", static_cast<double>(count) / static_cast<double>(sweeps));
    return text;
  }

  void print_figures(LoadedModel& loaded, const BatchFigures& figures) const {
    const Plan& decode = batch_.plans->decode;
    std::string line = fmt::format("[{} requests answered", figures.answered);
    if (figures.resumed > 0) line += fmt::format(" ({} before)", figures.resumed);
    if (figures.failed > 0) line += fmt::format(", {} with an error", figures.failed);
    line += fmt::format(" | depth {} of {} blocks", decode.visits(), loaded.config().text.layers);
    if (!figures.exits.empty())
      line += fmt::format(", mean {:.2f} of {} loops", figures.mean_depth(), decode.loops());
    line += fmt::format(" | prompts {} tokens | answers {} tokens {:.1f} tokens/s | {} at a time",
                        figures.prompt_tokens, figures.generated_tokens, figures.token_rate(),
                        figures.scheduler.most_running);
    fmt::print(stderr, "{} | weights {} peak {}]\n", line,
               human_bytes(loaded.backend().stats().weight_bytes), human_bytes(peak_rss()));
  }

  Json report(LoadedModel& loaded, const BatchFigures& figures) const {
    const BackendStats stats = loaded.backend().stats();
    const SchedulerStats& scheduler = figures.scheduler;
    Json json = {{"requests", figures.requests},
                 {"answered", figures.answered},
                 {"answered_before", figures.resumed},
                 {"errors", figures.failed},
                 {"left", figures.left()},
                 {"prompt_tokens", figures.prompt_tokens},
                 {"generated_tokens", figures.generated_tokens},
                 {"tokens_per_second", figures.token_rate()},
                 {"seconds", {{"load", loaded.load_seconds()}, {"run", figures.seconds}}},
                 {"scheduler",
                  {{"schedule", schedule_},
                   {"sweeps", scheduler.sweeps},
                   {"visits", scheduler.visits},
                   {"visit_rows", scheduler.visit_rows},
                   {"heads", scheduler.heads},
                   {"head_rows", scheduler.head_rows},
                   {"preemptions", scheduler.preemptions},
                   {"prefix_hits", scheduler.prefix_hits},
                   {"prefix_tokens", scheduler.prefix_tokens},
                   {"most_running", scheduler.most_running}}},
                 {"memory",
                  {{"weight_bytes", stats.weight_bytes},
                   {"workspace_peak", stats.workspace_peak},
                   {"peak_rss", peak_rss()}}},
                 {"backend", loaded.backend().description()}};
    if (figures.exits.empty()) return json;
    json["exits"] = figures.exits;
    json["mean_depth"] = figures.mean_depth();
    return json;
  }

  ModelFlags flags_;
  ExitFlags exit_;
  BatchOptions batch_;
  std::filesystem::path in_, out_;
  int64_t context_ = 0;
  uint64_t kv_budget_ = 0, prefix_cache_ = 512'000'000;
  std::string schedule_ = "depthwise";
  bool json_ = false;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_batch_command() { return std::make_unique<BatchCommand>(); }

}  // namespace reprise::tools
