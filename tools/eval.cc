// `reprise eval`: perplexity of a text, exact match of generated answers about pictures, or how
// early the tokens of a text may leave a looped model.
#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "eval/perplexity.h"
#include "eval/qa.h"
#include "tools/beam_options.h"
#include "tools/calibrate_exit.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/interrupt.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

class EvalCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description(
        "Measures a model: perplexity of a text, answers to questions, or when to leave loops");
    app.footer(
        "With int8 activations the KL divergence to F32 ones is reported too, which runs the\n"
        "model twice; --no-kl leaves it out.\n"
        "Examples:\n"
        "  reprise eval model.gguf --perplexity wiki.txt --ctx 512 --json\n"
        "  reprise eval tiny-trol.gguf --qa test.jsonl --images pictures --json\n"
        "  reprise eval tiny-trol.gguf --qa test.jsonl --images pictures --blind\n"
        "  reprise eval model.gguf --qa test.jsonl --images pictures --beams 5\n"
        "  reprise eval looped-model --calibrate-exit wiki.txt --agreement 0.98 --store");
    flags_.add(app);
    cli::Option* chat_template = flags_.add_chat_template(app);
    add_plan_options(app, generator_.plan);
    auto* what = app.add_option_group("measure");
    what->add_option("--perplexity", text_, "A text file")->type_name("FILE");
    auto* qa = what->add_option("--qa", questions_,
                                "Questions: one {\"image\", \"question\", \"answer\"} a line");
    qa->type_name("FILE.jsonl");
    chat_template->needs(qa);
    calibration_.add(app, *what);
    what->require_option(1);
    app.add_option("--ctx", context_, "Tokens of one window of the text")
        ->check(cli::Range(int64_t{4}, int64_t{1} << 24))
        ->capture_default_str()
        ->excludes(qa);
    app.add_option("--images", images_, "Folder that image names are relative to")
        ->type_name("DIR")
        ->needs(qa);
    app.add_flag("--blind", qa_.blind, "Leave the pictures out")->needs(qa);
    app.add_option("--limit", limit_, "Only the first N questions; 0: all")
        ->check(cli::Range(int64_t{0}, kMostCount))
        ->needs(qa);
    app.add_option("--max-tokens", qa_.generation.max_tokens, "Most tokens of an answer")
        ->check(cli::Range(int64_t{1}, kMostCount))
        ->capture_default_str()
        ->needs(qa);
    for (cli::Option* option : add_beam_options(app, qa_.generation.beam, /*answers=*/false))
      option->needs(qa);
    for (cli::Option* option : add_picture_options(app, qa_.picture)) option->needs(qa);
    app.add_option("--predictions", predictions_, "Write questions with the answers given")
        ->type_name("OUT.jsonl")
        ->needs(qa);
    cli::Option* calibrate = app.get_option("--calibrate-exit");
    app.add_option("--chunk", generator_.chunk, "Prompt tokens of one forward call")
        ->check(cli::Range(1, 1 << 30))
        ->capture_default_str()
        ->excludes(calibrate);
    app.add_flag("--no-kl", no_kl_, "Don't compare int8 activations with F32")->excludes(calibrate);
    app.add_flag("--json", json_, "One JSON object instead of text");
  }

  int run() override {
    if (calibration_.asked()) return calibration_.run(flags_, generator_.plan, context_, json_);
    return text_.empty() ? answer() : measure_perplexity();
  }

 private:
  // The same model with F32 activations, where that makes a difference; else null.
  std::unique_ptr<LoadedModel> reference(LoadedModel& loaded) const {
    if (no_kl_ || !loaded.quantizes_activations()) return nullptr;
    return LoadedModel::load(exact_activations(loaded.options()));
  }

  int measure_perplexity() {
    const LoadedModelOptions options = flags_.options();
    const std::string text = read_file(text_);
    const auto loaded = LoadedModel::load(options);
    const int64_t limit = loaded->context_limit();
    if (limit > 0 && context_ > limit) {
      fail("--ctx {}: the model's context is {}", context_, limit);
    }
    const std::optional<int32_t> bos = loaded->added_bos();
    const std::vector<int32_t> tokens = loaded->text_tokens(text);
    const auto exact = reference(*loaded);
    Progress progress("perplexity");
    const auto logits = [&](LoadedModel& one) {
      const auto plans = make_plans(one.model(), generator_.plan);
      return window_logits(one.model(), plans, generator_.chunk,
                           asked_exit(one.model(), plans->decode, generator_.plan));
    };
    const PerplexityResult result =
        perplexity(tokens, context_, bos, logits(*loaded), exact ? logits(*exact) : WindowLogits(),
                   [&](int64_t done, int64_t windows, double value) {
                     progress.update(done, windows, fmt::format("{:.4f}", value));
                   });
    progress.clear();
    Json report = {{"perplexity", result.perplexity},
                   {"standard_error", result.standard_error},
                   {"mean_nll", result.mean_nll},
                   {"ctx", context_},
                   {"windows", result.windows},
                   {"tokens", result.tokens},
                   {"backend", loaded->backend().description()}};
    if (exact) report["kl_divergence"] = result.kl_divergence;
    if (json_) {
      print_json(report);
      return 0;
    }
    fmt::print("perplexity {:.4f} +/- {:.4f} ({} windows of {} tokens, {} predictions)\n",
               result.perplexity, result.standard_error, result.windows, context_, result.tokens);
    if (exact)
      fmt::print("KL divergence of int8 activations to F32: {:.3e}\n", result.kl_divergence);
    return 0;
  }

  int answer() {
    const LoadedModelOptions options = flags_.options();
    qa_.generation.beam.check();
    if (!predictions_.empty()) check_output_path(predictions_, "--predictions");
    const std::vector<Question> questions = load_questions(questions_, images_, limit_);
    const auto loaded = LoadedModel::load(options);
    const auto exact = reference(*loaded);
    generator_.reuse_prefix = true;
    qa_.generation.exit =
        asked_exit(loaded->model(), loaded->model().decode_plan(generator_.plan), generator_.plan);
    const InterruptScope interrupt;
    qa_.generation.cancel = &interrupt.flag();
    Progress progress("questions");
    const auto total = static_cast<int64_t>(questions.size());
    QaResult result;
    int64_t answered = 0;
    try {
      result = answer_questions(
          *loaded, generator_, questions, qa_, exact.get(), [&](const QaResult& so_far) {
            answered = so_far.total.questions;
            progress.update(answered, total, fmt::format("{:.2f}%", 100 * so_far.total.rate()));
          });
    } catch (const Error&) {
      if (interrupted_exit() == 0) throw;
      progress.clear();
      fmt::print(stderr, "reprise: interrupted after {} of {} questions; nothing was written\n",
                 answered, total);
      return interrupted_exit();
    }
    progress.clear();
    if (!predictions_.empty()) write_predictions(questions, result);
    const auto [low, high] = wilson_interval(result.total);
    if (json_) {
      Json report = {{"exact_match", result.total.rate()},
                     {"interval", {low, high}},
                     {"correct", result.total.correct},
                     {"questions", result.total.questions},
                     {"blind", qa_.blind},
                     {"beams", qa_.generation.beam.beams},
                     {"images_encoded", result.images_encoded},
                     {"generated_tokens", result.generated_tokens},
                     {"seconds", result.seconds},
                     {"backend", loaded->backend().description()}};
      report["by_answer"] = Json::array();
      for (const auto& [text, score] : result.by_answer) {
        report["by_answer"].push_back({{"answer", text},
                                       {"questions", score.questions},
                                       {"correct", score.correct},
                                       {"exact_match", score.rate()}});
      }
      if (exact) report["kl_divergence"] = result.kl_divergence;
      print_json(report);
      return 0;
    }
    fmt::print("exact match {:.2f}% ({} of {}), 95% interval {:.2f}% to {:.2f}%{}\n",
               100 * result.total.rate(), result.total.correct, result.total.questions, 100 * low,
               100 * high, qa_.blind ? ", blind" : "");
    if (exact)
      fmt::print("KL divergence of int8 activations to F32: {:.3e}\n", result.kl_divergence);
    fmt::print("{:<24}{:>10}{:>10}{:>10}\n", "answer", "questions", "correct", "%");
    for (const auto& [text, score] : result.by_answer) {
      fmt::print("{:<24}{:>10}{:>10}{:>10.2f}\n", text, score.questions, score.correct,
                 100 * score.rate());
    }
    return 0;
  }

  void write_predictions(const std::vector<Question>& questions, const QaResult& result) const {
    std::string lines;
    for (size_t i = 0; i < questions.size(); ++i) {
      const Json line = {{"image", questions[i].image.filename().string()},
                         {"question", questions[i].question},
                         {"answer", questions[i].answer},
                         {"prediction", result.predictions[i]}};
      lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    write_file_atomically(predictions_, lines);
  }

  static constexpr int64_t kDefaultAnswerTokens = 32;

  ModelFlags flags_;
  GeneratorOptions generator_;
  QaOptions qa_{.generation = {.max_tokens = kDefaultAnswerTokens}};
  ExitCalibration calibration_;
  std::string text_, questions_, images_, predictions_;
  int64_t context_ = 512;
  int64_t limit_ = 0;
  bool no_kl_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace reprise::tools
